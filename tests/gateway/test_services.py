"""The whole gateway with tenants, limits, audit and usage, over HTTP, and the command beside it."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.admin.__main__ import main
from gateway.audit.audit_settings import AuditSettings
from gateway.configuration import Configuration
from gateway.services import Services
from tests.gateway.audit.conftest import lines
from tests.gateway.fakes import CHAT, STREAM, FakeUpstream, Running, configuration, serving
from tests.gateway.servers import fill

Command = Callable[..., str]


@pytest.fixture
def url(tmp_path) -> str:
    """The URL of a new database."""
    return f"sqlite:///{tmp_path}/gateway.db"


@pytest.fixture
def settings(tmp_path, url) -> Configuration:
    return configuration(
        database=url,
        tenants={"cache_s": 0},
        audit=AuditSettings(directory=tmp_path / "audit", reserve_bytes=1 << 16),
        usage={"interval_s": 0.05},
    )


@pytest.fixture
def command(settings, tmp_path, capsys) -> Command:
    """Runs `python -m gateway.admin` and returns what it prints."""
    path = tmp_path / "gateway.yaml"
    values = settings.model_dump(mode="json")
    values["database"] = settings.database.get_secret_value()
    path.write_text(yaml.safe_dump(values))

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["--config", str(path), *arguments]) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        return str(captured.out if code == 0 else captured.err)

    return run


@contextmanager
def gateway(settings: Configuration, upstream: FakeUpstream | None = None) -> Iterator[Running]:
    with serving(upstream, settings, services=Services.open(settings)) as running:
        yield running


def ask(running: Running, key: str, body: dict[str, Any]) -> httpx.Response:
    with running.client(headers={"authorization": f"Bearer {key}"}) as client:
        return client.post("/v1/chat/completions", json=body)


def usage(command: Command, *by: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(command("usage", "--by", ",".join(by)))))


def test_a_request_from_key_to_invoice(settings, command):
    bill_a_request(settings, command)


class TestPostgres:
    @pytest.fixture
    def url(self, postgres_url):
        return postgres_url

    def test_a_request_from_key_to_invoice(self, settings, command):
        bill_a_request(settings, command)


def bill_a_request(settings: Configuration, command: Command) -> None:
    command("tenants", "create", "acme", "--limit", "requests_per_minute=3")
    key = command("keys", "create", "acme", "--application", "chat").strip()
    command("prices", "set", "demo", "--prompt", "1000", "--output", "2000", "--currency", "EUR")
    with gateway(settings) as running:
        assert ask(running, "wrong", CHAT).status_code == 401
        answer = ask(running, key, CHAT)
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-remaining-requests"] == "2"
        assert ask(running, key, STREAM).text.endswith("data: [DONE]\n\n")
        assert ask(running, key, CHAT).status_code == 200
        refused = ask(running, key, CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            429,
            "rate_limit_exceeded",
        )
        assert 0 < int(refused.headers["retry-after"]) <= 61
    [row] = usage(command, "tenant", "application", "model")
    assert (row["tenant"], row["application"], row["model"]) == ("acme", "chat", "demo")
    tokens = answer.json()["usage"]
    prompt, output = 3 * tokens["prompt_tokens"], 3 * tokens["completion_tokens"]
    assert (row["requests"], row["prompt_tokens"]) == ("3", str(prompt))
    assert float(row["cost"]) == pytest.approx(prompt / 1000 + output / 500)
    assert ": whole; " in command("audit", "verify")
    assert settings.audit is not None
    ends = [line for line in lines(settings.audit.directory) if line["event"] == "end"]
    assert [(line["tenant"], line["status"]) for line in ends] == [("acme", 200)] * 3


def test_the_command_changes_what_a_running_gateway_does(settings, command):
    command("tenants", "create", "acme")
    key = command("keys", "create", "acme").strip()
    identity = key.split("_")[1]
    with gateway(settings) as running:
        assert ask(running, key, CHAT).status_code == 200
        new = command("keys", "rotate", identity, "--overlap-hours", "1").strip()
        assert [ask(running, each, CHAT).status_code for each in (key, new)] == [200, 200]
        command("keys", "revoke", identity)
        assert [ask(running, each, CHAT).status_code for each in (key, new)] == [401, 200]
        command("tenants", "update", "acme", "--models", "another")
        assert ask(running, new, CHAT).status_code == 404
        command("tenants", "update", "acme", "--models", "demo", "--locked")
        assert ask(running, new, CHAT).status_code == 403
    [tenant] = json.loads(command("tenants", "list"))
    assert (tenant["models"], tenant["locked"]) == (["demo"], True)
    actions = [line["action"] for line in lines(settings.audit.directory) if "action" in line]
    assert sorted(actions) == [
        "keys.create",
        "keys.revoke",
        "keys.rotate",
        "tenants.create",
        "tenants.update",
        "tenants.update",
    ]


def test_the_admin_api_does_what_the_command_does(settings, command):
    token = command("admins", "create", "ada").strip()
    with gateway(settings) as running, running.client() as anybody:
        admin = running.client(headers={"authorization": f"Bearer {token}"})
        assert anybody.get("/admin/v1/tenants").status_code == 401
        tenant = {"name": "acme", "tenant_class": "batch", "limits": {"tokens_per_day": 10**6}}
        assert admin.post("/admin/v1/tenants", json=tenant).status_code == 201
        assert admin.post("/admin/v1/tenants", json=tenant).status_code == 409
        assert admin.post("/admin/v1/tenants", json={"name": "a/b"}).status_code == 400
        made = admin.post("/admin/v1/tenants/acme/keys", json={"application": "chat"}).json()
        key, identity = made["api_key"], made["key"]["id"]
        assert ask(running, key, CHAT).status_code == 200
        # A tenant's key opens nothing here, and an admin's token asks no model.
        with running.client(headers={"authorization": f"Bearer {key}"}) as tenants:
            assert tenants.get("/admin/v1/tenants").status_code == 401
        assert ask(running, token, CHAT).status_code == 401
        rotated = admin.post(f"/admin/v1/keys/{identity}/rotate", json={"overlap_s": 60}).json()
        assert ask(running, rotated["api_key"], CHAT).status_code == 200
        assert admin.delete(f"/admin/v1/keys/{identity}").json()["revoked_at"] is not None
        assert admin.delete("/admin/v1/keys/nothing").status_code == 404
        assert ask(running, key, CHAT).status_code == 401
        listed = admin.get("/admin/v1/tenants/acme/keys").json()
        assert {each["id"] for each in listed} == {identity, rotated["key"]["id"]}
        assert "digest" not in listed[0]
        assert admin.put("/admin/v1/tenants/acme", json={"locked": True}).json()["locked"]
        assert ask(running, rotated["api_key"], CHAT).status_code == 403
        price = {"model": "demo", "since": "2026-01-01", "currency": "EUR"}
        price |= {"prompt_per_million": "1", "output_per_million": "2"}
        assert admin.put("/admin/v1/prices", json=price).status_code == 200
        assert admin.put("/admin/v1/prices", json={**price, "currency": "USD"}).status_code == 409
        end = time.monotonic() + 30
        while not (rows := admin.get("/admin/v1/usage", params={"by": "tenant"}).json()):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert rows[0]["group"] == {"tenant": "acme"}
        text = admin.get("/admin/v1/usage", params={"by": ["tenant", "day"], "format": "csv"})
        assert text.headers["content-type"].startswith("text/csv")
        assert text.text.startswith("tenant,day,requests,")
        assert admin.get("/admin/v1/usage", params={"by": "nothing"}).status_code == 400
        command("admins", "revoke", "ada")
        assert admin.get("/admin/v1/tenants").status_code == 401
        admin.close()
    actors = {line.get("actor", "").split(":")[0] for line in lines(settings.audit.directory)}
    assert actors == {"", "admin", "command"}


def test_whoever_has_a_text_finds_it_in_the_log(settings, command, monkeypatch):
    command("tenants", "create", "acme")
    key = command("keys", "create", "acme").strip()
    with gateway(settings) as running:
        answer = ask(running, key, CHAT).json()["choices"][0]["message"]["content"]
    [end] = [line for line in lines(settings.audit.directory) if line["event"] == "end"]
    for name, text in (
        ("prompt_digest", json.dumps(CHAT["messages"], separators=(",", ":"))),
        ("answer_digest", answer),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert command("audit", "digest", "--tenant", "acme").strip() == end[name]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert "not UTF-8" in command("audit", "digest", "--tenant", "acme", code=1)


def test_a_quota_outlives_the_process(settings, command):
    command("tenants", "create", "acme", "--limit", "tokens_per_month=1000")
    key = command("keys", "create", "acme").strip()
    asked = {**CHAT, "max_tokens": 900}
    with gateway(settings) as running:
        assert ask(running, key, asked).status_code == 200
    [row] = usage(command, "tenant")
    spent = int(row["prompt_tokens"]) + int(row["output_tokens"])
    command("tenants", "update", "acme", "--limit", f"tokens_per_month={spent + 100}")
    with gateway(settings) as running:
        assert ask(running, key, {**CHAT, "max_tokens": 60}).status_code == 200
        answer = ask(running, key, {**CHAT, "max_tokens": 95})
        assert (answer.status_code, answer.headers["x-should-retry"]) == (429, "false")


def test_on_a_full_disk_nothing_is_served_unaudited(disk):
    settings = configuration(audit=AuditSettings(directory=disk / "audit", reserve_bytes=16 << 10))
    with gateway(settings) as running:
        assert ask(running, "anything", CHAT).status_code == 200
        filler = fill(disk)
        answers = [ask(running, "anything", CHAT) for _ in range(20)]
        assert answers[-1].status_code == 503
        assert answers[-1].json()["error"]["code"] == "audit_unavailable"
        served = 1 + sum(answer.status_code == 200 for answer in answers)
        filler.unlink()
        end = time.monotonic() + 30
        while ask(running, "anything", CHAT).status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)
    ends = [line for line in lines(disk / "audit") if line["event"] == "end"]
    assert [line["status"] for line in ends].count(200) == served + 1


def test_without_a_database_there_are_no_tenants(tmp_path):
    directory = tmp_path / "audit"
    settings = configuration(audit=AuditSettings(directory=directory))
    with gateway(settings) as running:
        assert ask(running, "anything", CHAT).status_code == 200
        with running.client() as client:
            assert client.get("/admin/v1/tenants").status_code == 404
    assert [line["event"] for line in lines(directory)][-1] == "end"


def test_a_wrong_command_is_told(settings, command, tmp_path):
    assert "there is no tenant acme" in command("keys", "create", "acme", code=1)
    with pytest.raises(SystemExit):
        command("tenants", "create", "a/b")
    path = tmp_path / "gateway.yaml"
    values = yaml.safe_load(path.read_text())
    del values["database"], values["audit"]
    path.write_text(yaml.safe_dump(values))
    assert "names no database" in command("tenants", "list", code=1)
    assert "names no audit log" in command("audit", "verify", code=1)


def test_verify_says_where_a_log_is_not_whole(settings, command):
    command("tenants", "create", "acme")
    path: Path = next(settings.audit.directory.rglob("0*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b"tenants.create", b"tenants.forget"))
    assert f"{path}:3 was changed" in command("audit", "verify", code=1)
