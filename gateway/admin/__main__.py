"""`python -m gateway.admin`: tenants, keys, prices, usage and the audit log.

It works on the database and the audit log that the gateway's configuration names, whether the
gateway runs or not. Results go to standard output: JSON, a new key alone on a line, or CSV.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from contract.settings_base import SettingsError, parse
from gateway.admin.words import DAY, LIMIT, NAME, SUMS, WORDS
from gateway.admin.workplace import Workplace
from gateway.audit.audit_errors import AuditError
from gateway.audit.retention import prune
from gateway.audit.verification import heads, verify
from gateway.database import DatabaseError
from gateway.gateway_errors import AuditUnavailable
from gateway.interfaces import TENANT_CLASSES
from gateway.tenants.directory import DirectoryError
from gateway.tenants.tenant import KeyPolicy, TenantPolicy
from gateway.usage.prices import Price, PriceBook
from gateway.usage.usage_report import Query, report, to_csv

_DAY_S = 86_400
_ONCE = "shown this once, and kept nowhere"

Command = Callable[..., None]
work = click.make_pass_decorator(Workplace)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 1 where it failed or a log is not whole.

    Raises:
        SystemExit: The words are no command.
    """
    try:
        code: int | None = command_line(
            arguments, prog_name="python -m gateway.admin", standalone_mode=False
        )
        return code or 0
    except click.ClickException as wrong:
        wrong.show()
        raise SystemExit(wrong.exit_code) from None
    except (SettingsError, DatabaseError, DirectoryError, AuditError, AuditUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
    except SQLAlchemyError as error:
        print(f"error: the database failed: {error}", file=sys.stderr)
    return 1


@click.group(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    required=True,
    help="The gateway's YAML file.",
)
@click.pass_context
def command_line(context: click.Context, config: Path) -> None:
    """Take the configuration; a command follows."""
    context.obj = Workplace(config)


# --- tenants ------------------------------------------------------------------------------------


@command_line.group()
def tenants() -> None:
    """Who pays."""


def _policy_options(command: Command) -> Command:
    """What can be said of a tenant."""
    for option in (
        click.option("--locked/--no-locked", default=None),
        click.option("--key-limit", "key_limits", type=LIMIT, multiple=True, help="Of each key."),
        click.option("--limit", "limits", type=LIMIT, multiple=True, help="Of all keys together."),
        click.option("--data-residency", help="Where its data may be processed."),
        click.option("--fallback/--no-fallback", "fallback_allowed", default=None),
        click.option("--policy", help="The safety policy of its requests."),
        click.option("--models", type=WORDS, help="With commas between; all where not given."),
        click.option("--class", "tenant_class", type=click.Choice(TENANT_CLASSES)),
    ):
        command = option(command)
    return command


@tenants.command("list")
@work
def list_tenants(work: Workplace) -> None:
    """All tenants, as JSON."""
    _print(work.directory().tenants())


@tenants.command("create")
@click.argument("name", type=NAME)
@_policy_options
@work
def create_tenant(work: Workplace, /, name: str, **policy: Any) -> None:
    """Make a tenant."""
    wanted = parse(TenantPolicy, _given(policy), name)
    _print(work.change(lambda admin: admin.create_tenant(work.actor, name, wanted)))


@tenants.command("update")
@click.argument("name", type=NAME)
@_policy_options
@work
def update_tenant(work: Workplace, /, name: str, **policy: Any) -> None:
    """Change what is given, and leave the rest."""
    now = work.directory().tenant(name).model_dump(mode="json", exclude={"name", "created_at"})
    changes = _given(policy)
    for limits in ("limits", "key_limits"):
        changes[limits] = {**now[limits], **changes.get(limits, {})}
    wanted = parse(TenantPolicy, {**now, **changes}, name)
    _print(work.change(lambda admin: admin.update_tenant(work.actor, name, wanted)))


# --- keys ---------------------------------------------------------------------------------------


@command_line.group()
def keys() -> None:
    """API keys."""


@keys.command("list")
@click.argument("tenant", required=False)
@work
def list_keys(work: Workplace, tenant: str | None) -> None:
    """Keys without themselves, as JSON: a TENANT's, or everybody's."""
    found = work.directory().keys(tenant)
    _print([each.model_dump(mode="json", exclude={"digest"}) for each in found])


@keys.command("create")
@click.argument("tenant")
@click.option("--application", default="default", show_default=True)
@click.option("--models", type=WORDS, help="With commas between; the tenant's where not given.")
@click.option("--limit", "limits", type=LIMIT, multiple=True, help="In place of the tenant's.")
@click.option("--days", type=float, help="How long it lasts; for ever where not given.")
@work
def create_key(work: Workplace, /, tenant: str, days: float | None, **values: Any) -> None:
    """Make a key and print it, this once."""
    policy = parse(KeyPolicy, {**_given(values), "expires_at": _expiry(days)}, tenant)
    key, credential = work.change(lambda admin: admin.create_key(work.actor, tenant, policy))
    print(f"key {key.id} of {key.tenant}, {_ONCE}:", file=sys.stderr)
    print(credential.text)


@keys.command("rotate")
@click.argument("identity", metavar="ID")
@click.option("--overlap-hours", type=float, default=24, show_default=True, help="How long.")
@click.option("--days", type=float, help="How long the new one lasts.")
@work
def rotate_key(work: Workplace, identity: str, overlap_hours: float, days: float | None) -> None:
    """Print a new key; the old one goes on for a while."""
    key, credential = work.change(
        lambda admin: admin.rotate_key(work.actor, identity, overlap_hours * 3600, _expiry(days))
    )
    print(
        f"key {key.id} in place of {identity}, which goes on for {overlap_hours:g} hours; {_ONCE}:",
        file=sys.stderr,
    )
    print(credential.text)


@keys.command("revoke")
@click.argument("identity", metavar="ID")
@work
def revoke_key(work: Workplace, identity: str) -> None:
    """End a key."""
    work.change(lambda admin: admin.revoke_key(work.actor, identity))


# --- admins -------------------------------------------------------------------------------------


@command_line.group()
def admins() -> None:
    """Who may use the admin API."""


@admins.command("list")
@work
def list_admins(work: Workplace) -> None:
    """Their names, as JSON."""
    _print(work.directory().admins())


@admins.command("create")
@click.argument("name", type=NAME)
@work
def create_admin(work: Workplace, name: str) -> None:
    """Print a token, this once."""
    token = work.change(lambda admin: admin.create_admin(work.actor, name))
    print(f"token of {name}, {_ONCE}:", file=sys.stderr)
    print(token.text)


@admins.command("revoke")
@click.argument("name")
@work
def revoke_admin(work: Workplace, name: str) -> None:
    """Take a token away."""
    work.change(lambda admin: admin.revoke_admin(work.actor, name))


# --- prices and usage ---------------------------------------------------------------------------


@command_line.group()
def prices() -> None:
    """What tokens cost."""


@prices.command("list")
@work
def list_prices(work: Workplace) -> None:
    """All prices, as JSON."""
    _print(PriceBook(work.engine()).all())


@prices.command("set")
@click.argument("model")
@click.option("--prompt", "prompt_per_million", required=True, help="A million prompt tokens.")
@click.option("--output", "output_per_million", required=True, help="A million answer tokens.")
@click.option(
    "--cached", "cached_per_million", default="0", help="A million cached prompt tokens (0)."
)
@click.option("--currency", required=True, help="Such as EUR.")
@click.option("--since", type=DAY, help="Its first day (today).")
@work
def set_price(work: Workplace, /, model: str, since: date | None, **values: str) -> None:
    """Set a model's price from a day on."""
    price = parse(Price, {"model": model, "since": since or _today(), **values}, model)
    work.change(lambda admin: admin.set_price(work.actor, price))
    _print(price)


@command_line.command()
@click.option("--first", type=DAY, help="The first day (of the month).")
@click.option("--last", type=DAY, help="The last day (today).")
@click.option(
    "--by", type=SUMS, default=["tenant", "application", "model", "day"], help="A sum for each."
)
@click.option("--tenant", help="Whose alone.")
@work
def usage(
    work: Workplace, first: date | None, last: date | None, by: list[str], tenant: str | None
) -> None:
    """Who used what and what it cost, as CSV."""
    ledger = work.ledger()
    if ledger is not None:
        ledger.fold()
    query = Query(
        first=first or _today().replace(day=1),
        last=last or _today(),
        by=tuple(by),  # type: ignore[arg-type] # words that SUMS checked
        tenant=tenant,
    )
    print(to_csv(report(work.engine(), query), query.by), end="")


# --- the audit log ------------------------------------------------------------------------------


@command_line.group()
def audit() -> None:
    """The audit log."""


@audit.command("verify")
@click.pass_context
@work
def verify_log(work: Workplace, context: click.Context) -> None:
    """Check every line; the exit code is 1 where it is not whole."""
    settings = work.audit()
    ledger = work.ledger()
    anchors = {} if ledger is None else ledger.cursors()
    reports = verify(settings.directory, work.audit_keys(), anchors)
    for each in reports:
        for problem in each.problems:
            print(f"error: {problem}", file=sys.stderr)
        counts = ", ".join(f"{count} {event}" for event, count in sorted(each.events.items()))
        state = "NOT WHOLE" if each.problems else "whole"
        first, last = each.first.sequence + 1, each.last.sequence
        print(f"{each.writer}: {state}; lines {first} to {last}: {counts}")
    if not reports:
        print(f"{settings.directory} holds no log yet")
    context.exit(int(any(each.problems for each in reports)))


@audit.command("heads")
@work
def show_heads(work: Workplace) -> None:
    """Where each chain ends, to be noted elsewhere."""
    for writer, link in heads(work.audit().directory).items():
        print(f"{writer} {link.sequence} {link.mac}")


@audit.command("prune")
@click.option("--before", type=DAY, help="The first day to keep.")
@click.option("--keep-days", type=int, help="How many days to keep before today.")
@work
def prune_log(work: Workplace, before: date | None, keep_days: int | None) -> None:
    """Remove what is older; the rest still verifies."""
    if (before is None) == (keep_days is None):
        raise click.UsageError("give one of --before and --keep-days")
    first = before or _today() - timedelta(days=keep_days or 0)
    ledger = work.ledger()
    if ledger is not None:
        ledger.fold()
    counted = None if ledger is None else ledger.cursors()
    prune(work.audit().directory, work.audit_keys(), first, counted, tell=print)


@audit.command("digest")
@click.option("--tenant", required=True, help="Whose prompt or answer it was.")
@work
def digest(work: Workplace, tenant: str) -> None:
    """The digest of a text from standard input."""
    try:
        text = sys.stdin.buffer.read()
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"the text is not UTF-8: {error.reason}") from None
    print(work.audit_keys().current.digest(tenant, text))


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """What was said of a tenant or a key, limits as a mapping."""
    given = {name: value for name, value in values.items() if value not in (None, ())}
    return {
        name: dict(value) if name in ("limits", "key_limits") else value
        for name, value in given.items()
    }


def _expiry(days: float | None) -> int | None:
    return None if days is None else int(time.time() + days * _DAY_S)


def _today() -> date:
    return datetime.now(timezone.utc).date()


def _print(value: Any) -> None:
    print(json.dumps(_plain(value), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
