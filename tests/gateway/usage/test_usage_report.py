from __future__ import annotations

import csv
import io
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import insert

from gateway.database import open_database, usage
from gateway.tenants.directory import Conflict
from gateway.usage.prices import Price, PriceBook, PriceList
from gateway.usage.usage_report import Dimension, Query, UsageRow, report, to_csv


def price(
    model: str = "demo",
    since: str = "2026-11-01",
    prompt: str = "0.15",
    output: str = "0.60",
    currency: str = "EUR",
) -> Price:
    return Price(
        model=model,
        since=date.fromisoformat(since),
        prompt_per_million=Decimal(prompt),
        output_per_million=Decimal(output),
        currency=currency,
    )


@pytest.fixture
def engine(database_url):
    engine = open_database(database_url)
    rows = [
        ("2026-11-01", "acme", "chat", "k1", "demo", 3, 1, 0, 1_000_000, 500_000),
        ("2026-11-02", "acme", "chat", "k2", "demo", 1, 0, 1, 1, 1),
        ("2026-11-02", "acme", "batch", "k1", "big", 2, 0, 0, 10, 20),
        ("2026-11-03", "globex", "chat", "k3", "demo", 1, 0, 0, 2_000_000, 0),
    ]
    with engine.begin() as connection:
        connection.execute(
            # Charged is what was told.
            insert(usage),
            [dict(zip(usage.c.keys(), (*row, 0, *row[-2:], 0, 0), strict=True)) for row in rows],
        )
    book = PriceBook(engine)
    book.set(price())
    book.set(price(since="2026-11-03", prompt="0.10"))
    return engine


def query(**fields: Any) -> Query:
    return Query(date(2026, 11, 1), date(2026, 11, 30), **fields)


def test_usage_is_grouped_and_priced_by_the_prices_of_its_day(engine):
    rows = report(engine, query(by=("tenant",)))
    acme, globex = rows
    assert acme.group == {"tenant": "acme"}
    assert (acme.requests, acme.errors, acme.interrupted) == (6, 1, 1)
    assert (acme.prompt_tokens, acme.output_tokens) == (1_000_011, 500_021)
    assert acme.cost == Decimal("0.45000075")  # 0.15 + 0.30, and 1 + 1 tokens to the last digit
    assert (acme.currency, acme.unpriced_tokens) == ("EUR", 30)
    assert globex.cost == Decimal("0.2")


def test_cached_tokens_cost_what_the_price_list_says_and_else_nothing(database_url):
    engine = open_database(database_url)
    row = ("2026-11-02", "acme", "chat", "k1", "demo", 1, 0, 0, 1000, 10, 900, 100, 10, 0, 0)
    with engine.begin() as connection:
        connection.execute(insert(usage), [dict(zip(usage.c.keys(), row, strict=True))])
    book = PriceBook(engine)
    book.set(price(prompt="1000000", output="0"))
    [total] = report(engine, query(by=()))
    assert total.cost == 100  # what was computed
    dear = price(prompt="1000000", output="0").model_copy(
        update={"cached_per_million": Decimal("500000")}
    )
    book.set(dear)
    assert book.all() == [dear]
    [total] = report(engine, query(by=()))
    assert total.cost == 100 + 450


def test_only_what_was_asked_for_is_reported(engine):
    assert [row.group for row in report(engine, query(by=("day", "model"), tenant="acme"))] == [
        {"day": "2026-11-01", "model": "demo"},
        {"day": "2026-11-02", "model": "big"},
        {"day": "2026-11-02", "model": "demo"},
    ]
    one_day = Query(date(2026, 11, 2), date(2026, 11, 2), by=())
    [total] = report(engine, one_day)
    assert (total.group, total.requests) == ({}, 3)
    assert report(engine, Query(date(2020, 1, 1), date(2020, 1, 2))) == []


def test_csv_has_the_same_in_a_line_each(engine):
    by: tuple[Dimension, ...] = ("tenant", "model")
    text = to_csv(report(engine, query(by=by)), by)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0] == {
        "tenant": "acme",
        "model": "big",
        "requests": "2",
        "errors": "0",
        "interrupted": "0",
        "timed_out": "0",
        "refused": "0",
        "prompt_tokens": "10",
        "output_tokens": "20",
        "cached_tokens": "0",
        "charged_prompt_tokens": "10",
        "charged_output_tokens": "20",
        "cost": "",
        "currency": "",
        "unpriced_tokens": "30",
    }
    assert [row["cost"] for row in rows[1:]] == ["0.45000075", "0.20"]


def test_small_costs_are_written_without_exponents():
    counts = ("requests", "errors", "interrupted", "timed_out", "refused", "prompt_tokens")
    empty = dict.fromkeys(counts, 0)
    row = UsageRow(
        group={},
        **empty,
        output_tokens=1,
        cached_tokens=0,
        charged_prompt_tokens=0,
        charged_output_tokens=1,
        cost=price(output="0.001").cost(0, 1),
        currency="EUR",
        unpriced_tokens=0,
    )
    assert to_csv([row], ()).splitlines()[1].split(",")[8] == "0.000000001"


def test_a_price_holds_from_its_day_on():
    prices = PriceList([price(since="2026-11-03", prompt="2"), price(prompt="1")])
    found = [prices.find("demo", f"2026-11-0{day}") for day in (1, 2, 3, 4)]
    assert [each and each.prompt_per_million for each in found] == [1, 1, 2, 2]
    assert prices.find("demo", "2026-10-31") is None
    assert prices.find("other", "2026-11-01") is None


def test_prices_have_one_currency_and_are_replaced_by_day(engine):
    book = PriceBook(engine)
    with pytest.raises(Conflict, match="prices are in EUR, and this one is in USD"):
        book.set(price(currency="USD"))
    book.set(price(prompt="0.000000001"))
    assert [each.prompt_per_million for each in book.all()] == [
        Decimal("0.000000001"),
        Decimal("0.10"),
    ]


@pytest.mark.parametrize(
    "fields", [{"prompt": "-1"}, {"output": "NaN"}, {"currency": "eur"}, {"prompt": "1e-12"}]
)
def test_a_price_that_is_none_is_refused(fields):
    with pytest.raises(ValueError, match="Price"):
        price(**fields)
