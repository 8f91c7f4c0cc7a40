"""What tokens cost, by model and from a day on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Annotated

from pydantic import Field
from sqlalchemy import Engine, delete, insert, select

from contract.settings_base import Settings
from gateway.database import prices
from gateway.tenants.directory import Conflict

_MILLION = Decimal(1_000_000)

Money = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=9, allow_inf_nan=False)]


class Price(Settings):
    """A model's price from a day on, until a later one.

    Attributes:
        model: The model, by the name that it is asked by.
        since: The first day, UTC.
        prompt_per_million: A million tokens of prompts.
        output_per_million: A million tokens of answers.
        cached_per_million: A million tokens of prompts that the engine had from an earlier request:
            nothing unless it is set, since nothing was computed for them.
        currency: ISO 4217; the same for all prices.
    """

    model: Annotated[str, Field(min_length=1, max_length=256)]
    since: date
    prompt_per_million: Money
    output_per_million: Money
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    cached_per_million: Money = Decimal(0)

    def cost(self, prompt_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal:
        """What so many tokens cost, exactly; those that were cached are not among the prompt's."""
        parts = (
            prompt_tokens * self.prompt_per_million,
            output_tokens * self.output_per_million,
            cached_tokens * self.cached_per_million,
        )
        return sum(parts, Decimal(0)) / _MILLION


class PriceBook:
    """The prices in the database. Its methods block."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def set(self, price: Price) -> None:
        """Set a model's price from a day on, in place of one that began the same day.

        Raises:
            Conflict: Other prices are in another currency.
        """
        with self._engine.begin() as connection:
            others = select(prices.c.currency).where(prices.c.currency != price.currency)
            other = connection.scalars(others.limit(1)).first()
            if other is not None:
                raise Conflict(f"prices are in {other}, and this one is in {price.currency}")
            row = {
                "model": price.model,
                "since": price.since.isoformat(),
                "prompt_per_million": str(price.prompt_per_million),
                "output_per_million": str(price.output_per_million),
                "currency": price.currency,
                "cached_per_million": str(price.cached_per_million),
            }
            connection.execute(
                delete(prices).where(prices.c.model == row["model"], prices.c.since == row["since"])
            )
            connection.execute(insert(prices).values(row))

    def all(self) -> list[Price]:
        """Return all prices by model and day."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(prices).order_by(prices.c.model, prices.c.since))
            return [Price.model_validate(row._asdict()) for row in rows]


class PriceList:
    """Prices, to look up by model and day."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._by_model: dict[str, list[Price]] = {}
        for price in sorted(prices, key=lambda each: each.since):
            self._by_model.setdefault(price.model, []).append(price)

    def find(self, model: str, day: str) -> Price | None:
        """Return a model's price on a day; None where it has none yet."""
        prices = self._by_model.get(model, [])
        place = bisect_right(prices, day, key=lambda each: each.since.isoformat())
        return prices[place - 1] if place else None
