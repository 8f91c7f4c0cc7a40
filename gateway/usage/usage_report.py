"""Who used what and what it cost, for chargeback."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal, get_args

from pydantic import BaseModel, field_serializer
from sqlalchemy import ColumnElement, Engine, select

from gateway.database import USAGE_COUNTS, usage
from gateway.usage.prices import PriceBook, PriceList

Dimension = Literal["day", "tenant", "application", "key_id", "model"]

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)


class UsageRow(BaseModel):
    """The usage of one group.

    Attributes:
        group: What the group is, such as ``{"tenant": "acme", "day": "2026-11-20"}``.
        requests: Requests that were taken in, and that no model found wrong.
        errors: Those that the gateway or a model failed.
        interrupted: Those that a killed gateway left; what they used is not known.
        prompt_tokens: Tokens of prompts.
        output_tokens: Tokens of answers.
        cached_tokens: Tokens of prompts that the engine had computed before.
        charged_prompt_tokens: Tokens of prompts that the engine computed.
        charged_output_tokens: Tokens that it generated, also behind a stop text and for clients
            that had left.
        cost: What the charged tokens cost, and the cached ones where these have a price, to the
            last digit; None where no model has a price.
        currency: Of the cost.
        unpriced_tokens: Charged tokens of models without a price on their day.
        timed_out: Those that their clients gave less time than they took, by the header of the
            deadline; they are none of the errors.
        refused: Requests that were not taken in, or that a model found wrong, beside those: a
            field was wrong, a prompt too long, a limit used up, the key had ended.
    """

    group: dict[Dimension, str]
    requests: int
    errors: int
    interrupted: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    charged_prompt_tokens: int
    charged_output_tokens: int
    cost: Decimal | None
    currency: str | None
    unpriced_tokens: int
    timed_out: int
    refused: int

    @field_serializer("cost", when_used="json")
    def _plain(self, cost: Decimal | None) -> str | None:
        """No exponent, which spreadsheets would take for something else."""
        return None if cost is None else format(cost, "f")


@dataclass(frozen=True)
class Query:
    """What to report.

    Attributes:
        first: The first day.
        last: The last day.
        by: What to group by.
        tenant: Only this one; None is all.
    """

    first: date
    last: date
    by: tuple[Dimension, ...] = ("tenant", "application", "model", "day")
    tenant: str | None = None


def report(engine: Engine, query: Query) -> list[UsageRow]:
    """Return usage by group, in the groups' order. It blocks."""
    conditions: list[ColumnElement[bool]] = [
        usage.c.day.between(query.first.isoformat(), query.last.isoformat())
    ]
    if query.tenant is not None:
        conditions.append(usage.c.tenant == query.tenant)
    prices = PriceList(PriceBook(engine).all())
    groups: dict[tuple[str, ...], UsageRow] = {}
    with engine.connect() as connection:
        for row in connection.execute(select(usage).where(*conditions)):
            key = tuple(getattr(row, name) for name in query.by)
            if key not in groups:
                groups[key] = _empty(dict(zip(query.by, key, strict=True)))
            _add(groups[key], row, prices)
    return [groups[key] for key in sorted(groups)]


def to_csv(rows: Iterable[UsageRow], by: Sequence[Dimension]) -> str:
    """Return a report as CSV, with a line of names. A cost is empty where nothing has a price."""
    text = io.StringIO()
    counts = [name for name in UsageRow.model_fields if name != "group"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*by, *counts])
    for row in rows:
        values = row.model_dump(mode="json")
        writer.writerow([*(row.group[name] for name in by), *(values[name] for name in counts)])
    return text.getvalue()


def _empty(group: dict[Dimension, str]) -> UsageRow:
    return UsageRow(
        group=group,
        requests=0,
        errors=0,
        interrupted=0,
        timed_out=0,
        refused=0,
        prompt_tokens=0,
        output_tokens=0,
        cached_tokens=0,
        charged_prompt_tokens=0,
        charged_output_tokens=0,
        cost=None,
        currency=None,
        unpriced_tokens=0,
    )


def _add(group: UsageRow, row: Any, prices: PriceList) -> None:
    for name in USAGE_COUNTS:
        setattr(group, name, getattr(group, name) + getattr(row, name))
    price = prices.find(row.model, row.day)
    if price is None:
        group.unpriced_tokens += row.charged_prompt_tokens + row.charged_output_tokens
        return
    cost = price.cost(row.charged_prompt_tokens, row.charged_output_tokens, row.cached_tokens)
    group.cost = (group.cost or Decimal(0)) + cost
    group.currency = price.currency
