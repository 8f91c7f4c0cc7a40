"""`python -m gateway.admin`: tenants, keys, prices, usage and the audit log.

It works on the database and the audit log that the gateway's configuration names, whether the
gateway runs or not. Results go to standard output: JSON, a new key alone on a line, or CSV.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from contract.settings_base import SettingsError, load, parse
from gateway.admin.operations import Administration
from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_settings import AuditSettings
from gateway.audit.keys import AuditKeys
from gateway.audit.log import FileAuditLog, key_path
from gateway.audit.retention import prune
from gateway.audit.verification import heads, verify
from gateway.configuration import Configuration
from gateway.database import DatabaseError, open_database
from gateway.gateway_errors import AuditUnavailable
from gateway.interfaces import TENANT_CLASSES
from gateway.limits.limit import Limits
from gateway.tenants.directory import Directory, DirectoryError
from gateway.tenants.tenant import KeyPolicy, Name, TenantPolicy
from gateway.usage.ledger import Ledger
from gateway.usage.prices import Price, PriceBook
from gateway.usage.usage_report import DIMENSIONS, Query, report, to_csv

_DAY_S = 86_400
_ONCE = "shown this once, and kept nowhere"

Given = argparse.Namespace


class Workplace:
    """What the commands work on, opened as they need it."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    def engine(self) -> Engine:
        """The database."""
        if self._configuration.database is None:
            raise SettingsError("the configuration names no database: set `database`")
        return open_database(self._configuration.database.get_secret_value())

    def audit(self) -> AuditSettings:
        """The audit log's settings."""
        if self._configuration.audit is None:
            raise SettingsError("the configuration names no audit log: set `audit.directory`")
        return self._configuration.audit

    def ledger(self) -> Ledger | None:
        """The sums of the audit log, where there are both."""
        if self._configuration.database is None or self._configuration.audit is None:
            return None
        return Ledger(self.engine(), self._configuration.audit.directory)

    def directory(self) -> Directory:
        """Tenants, keys and admins, to look at."""
        return Directory(self.engine())

    @asynccontextmanager
    async def administration(self) -> AsyncIterator[Administration]:
        """What can be changed; changes go into the audit log, where there is one."""
        settings = self._configuration.audit
        log = None if settings is None else FileAuditLog.open(settings)
        try:
            yield Administration(self.engine(), log)
        finally:
            if log is not None:
                await log.close()


Command = Callable[[Workplace, Given], Coroutine[Any, Any, int | None]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 1 where it failed or a log is not whole."""
    given = _parser().parse_args(arguments)
    try:
        work = Workplace(load(Configuration, given.config))
        command: Command = given.command
        return asyncio.run(command(work, given)) or 0
    except (SettingsError, DatabaseError, DirectoryError, AuditError, AuditUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
    except SQLAlchemyError as error:
        print(f"error: the database failed: {error}", file=sys.stderr)
    return 1


async def _list_tenants(work: Workplace, given: Given) -> None:
    _print(work.directory().tenants())


async def _create_tenant(work: Workplace, given: Given) -> None:
    policy = parse(TenantPolicy, _policy(given), given.name)
    async with work.administration() as administration:
        _print(await administration.create_tenant(_actor(), given.name, policy))


async def _update_tenant(work: Workplace, given: Given) -> None:
    async with work.administration() as administration:
        now = administration.directory.tenant(given.name).model_dump(
            mode="json", exclude={"name", "created_at"}
        )
        changes = _policy(given)
        for name in ("limits", "key_limits"):
            changes[name] = {**now[name], **changes.get(name, {})}
        policy = parse(TenantPolicy, {**now, **changes}, given.name)
        _print(await administration.update_tenant(_actor(), given.name, policy))


async def _list_keys(work: Workplace, given: Given) -> None:
    keys = work.directory().keys(given.tenant)
    _print([each.model_dump(mode="json", exclude={"digest"}) for each in keys])


async def _create_key(work: Workplace, given: Given) -> None:
    values: dict[str, Any] = {"application": given.application, "expires_at": _expiry(given)}
    if given.models is not None:
        values["models"] = given.models
    if given.limits:
        values["limits"] = dict(given.limits)
    policy = parse(KeyPolicy, values, given.tenant)
    async with work.administration() as administration:
        key, credential = await administration.create_key(_actor(), given.tenant, policy)
    print(f"key {key.id} of {key.tenant}, {_ONCE}:", file=sys.stderr)
    print(credential.text)


async def _rotate_key(work: Workplace, given: Given) -> None:
    async with work.administration() as administration:
        key, credential = await administration.rotate_key(
            _actor(), given.id, given.overlap_hours * 3600, _expiry(given)
        )
    print(
        f"key {key.id} in place of {given.id}, which goes on for {given.overlap_hours:g} hours; "
        f"{_ONCE}:",
        file=sys.stderr,
    )
    print(credential.text)


async def _revoke_key(work: Workplace, given: Given) -> None:
    async with work.administration() as administration:
        await administration.revoke_key(_actor(), given.id)


async def _list_admins(work: Workplace, given: Given) -> None:
    _print(work.directory().admins())


async def _create_admin(work: Workplace, given: Given) -> None:
    async with work.administration() as administration:
        token = await administration.create_admin(_actor(), given.name)
    print(f"token of {given.name}, {_ONCE}:", file=sys.stderr)
    print(token.text)


async def _revoke_admin(work: Workplace, given: Given) -> None:
    async with work.administration() as administration:
        await administration.revoke_admin(_actor(), given.name)


async def _list_prices(work: Workplace, given: Given) -> None:
    _print(PriceBook(work.engine()).all())


async def _set_price(work: Workplace, given: Given) -> None:
    values = {
        "model": given.model,
        "since": given.since or _today(),
        "prompt_per_million": given.prompt,
        "output_per_million": given.output,
        "currency": given.currency,
    }
    price = parse(Price, values, given.model)
    async with work.administration() as administration:
        await administration.set_price(_actor(), price)
    _print(price)


async def _usage(work: Workplace, given: Given) -> None:
    ledger = work.ledger()
    if ledger is not None:
        ledger.fold()
    query = Query(
        first=given.first or _today().replace(day=1),
        last=given.last or _today(),
        by=tuple(given.by),
        tenant=given.tenant,
    )
    print(to_csv(report(work.engine(), query), query.by), end="")


async def _verify(work: Workplace, given: Given) -> int:
    settings = work.audit()
    ledger = work.ledger()
    anchors = {} if ledger is None else ledger.cursors()
    reports = verify(settings.directory, AuditKeys.load(key_path(settings)), anchors)
    for each in reports:
        for problem in each.problems:
            print(f"error: {problem}", file=sys.stderr)
        counts = ", ".join(f"{count} {event}" for event, count in sorted(each.events.items()))
        state = "NOT WHOLE" if each.problems else "whole"
        first, last = each.first.sequence + 1, each.last.sequence
        print(f"{each.writer}: {state}; lines {first} to {last}: {counts}")
    if not reports:
        print(f"{settings.directory} holds no log yet")
    return int(any(each.problems for each in reports))


async def _heads(work: Workplace, given: Given) -> None:
    for writer, link in heads(work.audit().directory).items():
        print(f"{writer} {link.sequence} {link.mac}")


async def _prune(work: Workplace, given: Given) -> None:
    settings = work.audit()
    before = given.before or _today() - timedelta(days=given.keep_days)
    ledger = work.ledger()
    if ledger is not None:
        ledger.fold()
    keys = AuditKeys.load(key_path(settings))
    counted = None if ledger is None else ledger.cursors()
    for path in prune(settings.directory, keys, before, counted):
        print(path)


async def _digest(work: Workplace, given: Given) -> None:
    keys = AuditKeys.load(key_path(work.audit()))
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"the text is not UTF-8: {error.reason}") from None
    print(keys.current.digest(given.tenant, text))


def _policy(given: Given) -> dict[str, Any]:
    values = {
        "tenant_class": given.tenant_class,
        "models": given.models,
        "policy": given.policy,
        "fallback_allowed": given.fallback,
        "data_residency": given.data_residency,
        "limits": dict(given.limits) or None,
        "key_limits": dict(given.key_limits) or None,
        "locked": given.locked,
    }
    return {name: value for name, value in values.items() if value is not None}


def _expiry(given: Given) -> int | None:
    return None if given.days is None else int(time.time() + given.days * _DAY_S)


def _actor() -> str:
    return f"command:{getpass.getuser()}"


def _today() -> date:
    return datetime.now(timezone.utc).date()


def _print(value: Any) -> None:
    print(json.dumps(_plain(value), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _limit(text: str) -> tuple[str, int | None]:
    name, _, value = text.partition("=")
    try:
        limit = None if value == "none" else int(value)
        Limits.model_validate({name: limit})
    except (ValueError, ValidationError):
        names = ", ".join(Limits.model_fields)
        raise argparse.ArgumentTypeError(
            f"{text!r} is no limit: write NAME=NUMBER or NAME=none, NAME one of {names}"
        ) from None
    return name, limit


def _name(text: str) -> str:
    try:
        return TypeAdapter(Name).validate_python(text)
    except ValidationError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name: up to 64 letters, digits and . _ @ -"
        ) from None


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _dimensions(text: str) -> list[str]:
    for word in _words(text):
        if word not in DIMENSIONS:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(DIMENSIONS)}")
    return _words(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.admin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="the gateway's YAML file")
    groups = parser.add_subparsers(required=True, metavar="WHAT")

    tenants = _group(groups, "tenants", "who pays")
    _command(tenants, "list", _list_tenants, "all tenants, as JSON")
    for name, command, told in (
        ("create", _create_tenant, "make a tenant"),
        ("update", _update_tenant, "change what is given, and leave the rest"),
    ):
        one = _command(tenants, name, command, told)
        one.add_argument("name", type=_name)
        one.add_argument("--class", dest="tenant_class", choices=TENANT_CLASSES)
        one.add_argument("--models", type=_words, help="comma between; all where not given")
        one.add_argument("--policy", help="the safety policy of its requests")
        one.add_argument("--fallback", action=argparse.BooleanOptionalAction)
        one.add_argument("--data-residency", help="where its data may be processed")
        one.add_argument("--limit", dest="limits", **_LIMITS, help="of all its keys together")
        one.add_argument("--key-limit", dest="key_limits", **_LIMITS, help="of each of its keys")
        one.add_argument("--locked", action=argparse.BooleanOptionalAction)

    keys = _group(groups, "keys", "API keys")
    one = _command(keys, "list", _list_keys, "keys without themselves, as JSON")
    one.add_argument("tenant", nargs="?", help="whose; everybody's where not given")
    one = _command(keys, "create", _create_key, "make a key and print it, this once")
    one.add_argument("tenant")
    one.add_argument("--application", default="default")
    one.add_argument("--models", type=_words, help="comma between; the tenant's where not given")
    one.add_argument("--limit", dest="limits", **_LIMITS, help="in place of the tenant's for keys")
    one.add_argument("--days", type=float, help="how long it lasts; for ever where not given")
    one = _command(keys, "rotate", _rotate_key, "print a new key; the old one goes on for a while")
    one.add_argument("id")
    one.add_argument("--overlap-hours", type=float, default=24, help="how long (24)")
    one.add_argument("--days", type=float, help="how long the new one lasts")
    one = _command(keys, "revoke", _revoke_key, "end a key")
    one.add_argument("id")

    admins = _group(groups, "admins", "who may use the admin API")
    _command(admins, "list", _list_admins, "their names, as JSON")
    _command(admins, "create", _create_admin, "print a token, this once").add_argument(
        "name", type=_name
    )
    _command(admins, "revoke", _revoke_admin, "take a token away").add_argument("name")

    prices = _group(groups, "prices", "what tokens cost")
    _command(prices, "list", _list_prices, "all prices, as JSON")
    one = _command(prices, "set", _set_price, "set a model's price from a day on")
    one.add_argument("model")
    one.add_argument("--prompt", required=True, help="a million tokens of prompts")
    one.add_argument("--output", required=True, help="a million tokens of answers")
    one.add_argument("--currency", required=True, help="such as EUR")
    one.add_argument("--since", type=date.fromisoformat, help="YYYY-MM-DD (today)")

    one = _command(groups, "usage", _usage, "who used what and what it cost, as CSV")
    one.add_argument("--first", type=date.fromisoformat, help="YYYY-MM-DD (first of the month)")
    one.add_argument("--last", type=date.fromisoformat, help="YYYY-MM-DD (today)")
    one.add_argument("--by", type=_dimensions, default=["tenant", "application", "model", "day"])
    one.add_argument("--tenant")

    audit = _group(groups, "audit", "the audit log")
    _command(audit, "verify", _verify, "check every line; exit code 1 where it is not whole")
    _command(audit, "heads", _heads, "where each chain ends, to be noted elsewhere")
    one = _command(audit, "prune", _prune, "remove what is older; the rest still verifies")
    older = one.add_mutually_exclusive_group(required=True)
    older.add_argument("--before", type=date.fromisoformat, help="the first day to keep")
    older.add_argument("--keep-days", type=int)
    one = _command(audit, "digest", _digest, "the digest of a text from standard input")
    one.add_argument("--tenant", required=True, help="whose prompt or answer it was")
    return parser


_LIMITS: dict[str, Any] = {
    "type": _limit,
    "action": "append",
    "default": [],
    "metavar": "NAME=NUMBER",
}


def _group(groups: Any, name: str, told: str) -> Any:
    return groups.add_parser(name, help=told, description=told).add_subparsers(
        required=True, metavar="COMMAND"
    )


def _command(group: Any, name: str, command: Command, told: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = group.add_parser(name, help=told, description=told)
    parser.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
