"""What can be limited, in numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contract.settings_base import Settings

Count = Annotated[int, Field(ge=1, le=10**15)]


class Limits(Settings):
    """Limits of a tenant or of a key. None is no limit.

    Tokens are the prompt's and the answer's together.

    Attributes:
        requests_per_minute: Most requests in any 60 seconds.
        tokens_per_minute: Most tokens in any 60 seconds.
        concurrent_requests: Most requests at a time, a request of several answers (`n`, a list of
            prompts) as so many.
        tokens_per_day: Most tokens in a day, UTC.
        tokens_per_month: Most tokens in a calendar month, UTC.
    """

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
