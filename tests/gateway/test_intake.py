"""Intake: what was left open is decided, and bounds are held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from types import MappingProxyType

import pytest

from contract.parameters import ParameterKeywords
from gateway.configuration import (
    AdmissionSettings,
    KeepingSettings,
    ModelSettings,
    VersionSettings,
)
from gateway.conversations import Conversations
from gateway.gateway_errors import InvalidRequest, ModelNotFound
from gateway.generation import Texts
from gateway.intake import DEADLINE_HEADER, Intake
from gateway.interfaces import Principal, TenantClass
from gateway.open_access import LOCAL
from gateway.order import Arrival, Order, Wish
from gateway.routing import Router
from tests.gateway.fakes import configuration

MODEL = ModelSettings(
    versions=(VersionSettings(name="demo-1", upstreams=("a",)),),
    aliases=frozenset({"d"}),
    default_max_tokens=50,
    max_tokens=40,
    default_temperature=0.5,
)
PRINCIPAL = replace(LOCAL, tenant_class="standard", policy="strict")


def order(
    parameters: ParameterKeywords | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
    model: str = "d",
    tenant_class: TenantClass | None = None,
    prompts: tuple[str, ...] = ("Hi",),
    principal: Principal = PRINCIPAL,
) -> Order:
    intake = Intake(
        Router(configuration(models={"demo": MODEL}), {}),
        AdmissionSettings(default_deadline_s=60, max_deadline_s=100),
        Conversations(KeepingSettings()),
    )
    wish = Wish(model, Texts.of(prompts), parameters or {}, tenant_class=tenant_class)
    return intake.order(principal, Arrival("id", headers, 1.7e9, 1000.0), wish)


def test_what_a_body_does_not_say_is_the_model_s_default():
    wanted = order()
    assert (wanted.model.name, wanted.model.asked) == ("demo", "d")
    assert wanted.deadline_s == 1060
    generation = wanted.generation
    assert (generation.request_id, generation.policy) == ("id", "strict")
    assert (generation.parameters.max_tokens, generation.parameters.temperature) == (40, 0.5)


def test_a_request_has_so_many_answers_and_no_more():
    assert order({"num_return_sequences": 128}).generation.num_answers == 128
    with pytest.raises(InvalidRequest, match="129 answers, and a request has at most 128") as error:
        order({"num_return_sequences": 129})
    assert (error.value.param, error.value.code) == ("n", "invalid_value")
    with pytest.raises(InvalidRequest, match="n is 43 to each of 3 prompts: that is 129 answers"):
        order({"num_return_sequences": 43}, prompts=("a", "b", "c"))


def test_a_tenant_s_name_goes_with_its_request_where_there_are_tenants():
    assert order(principal=replace(PRINCIPAL, tenant="acme")).generation.tenant == "acme"
    assert order(principal=LOCAL).generation.tenant == ""


@pytest.mark.parametrize(
    ("asked", "length", "fits"),
    [
        ({}, 40, True),
        ({"min_tokens": 30}, 40, True),
        ({"max_tokens": 7}, 7, None),
        ({"max_tokens": 40, "min_tokens": 30}, 40, None),
    ],
)
def test_only_a_length_that_nobody_asked_for_may_be_cut(asked, length, fits):
    parameters = order(asked).generation.parameters
    assert (parameters.max_tokens, parameters.fit_max_tokens) == (length, fits)


def test_a_default_makes_room_for_the_tokens_that_are_wanted_at_least():
    settings = MODEL.model_copy(update={"default_max_tokens": 10})
    router = Router(configuration(models={"demo": settings}), {})
    intake = Intake(router, AdmissionSettings(), Conversations(KeepingSettings()))
    wish = Wish("demo", Texts.of(("Hi",)), {"min_tokens": 20})
    wanted = intake.order(PRINCIPAL, Arrival("id", {}, 1.7e9, 1000.0), wish)
    assert wanted.generation.parameters.max_tokens == 20


def test_what_it_says_holds():
    parameters = order({"max_tokens": 7, "temperature": 0.0}).generation.parameters
    assert (parameters.max_tokens, parameters.temperature) == (7, 0)


def test_no_more_tokens_than_the_model_gives():
    assert order({"max_tokens": 40})
    with pytest.raises(InvalidRequest, match="max_tokens is 41; d gives at most 40") as caught:
        order({"max_tokens": 41})
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("asked", "given"),
    [(None, "standard"), ("interactive", "standard"), ("standard", "standard"), ("batch", "batch")],
)
def test_a_class_is_never_above_the_tenant_s(asked, given):
    assert order(tenant_class=asked).tenant_class == given


@pytest.mark.parametrize(("header", "deadline_s"), [("0.5", 1000.5), ("100", 1100)])
def test_a_header_is_the_deadline(header, deadline_s):
    assert order(headers={DEADLINE_HEADER: header}).deadline_s == deadline_s


@pytest.mark.parametrize("header", ["0", "-1", "101", "nan", "x", ""])
def test_a_deadline_has_bounds(header):
    with pytest.raises(InvalidRequest, match="at most 100") as caught:
        order(headers={DEADLINE_HEADER: header})
    assert caught.value.param == DEADLINE_HEADER


def test_a_model_that_is_not_there():
    with pytest.raises(ModelNotFound):
        order(model="other")


def test_a_generation_stays_as_it_is_made():
    generation = order().generation
    with pytest.raises(FrozenInstanceError):
        generation.stream = True  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        generation.parameters.max_tokens = 1  # type: ignore[misc]
