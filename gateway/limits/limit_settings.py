"""The settings of limits: where they are counted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from contract.settings_base import Settings


class LimitSettings(Settings):
    """Where requests and tokens are counted.

    Attributes:
        redis: URL of the Redis that all gateway processes share (``redis://``, ``rediss://`` or
            ``unix://``); None counts in this process, which is exact for one process only.
        prefix: Begins the name of every key there.
        lease_s: How long the requests of a killed process count as running.
        timeout_s: How long Redis may take to answer.
        when_unavailable: What happens to requests while it doesn't: ``refuse`` them, or ``allow``
            them uncounted.
    """

    redis: SecretStr | None = None
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] = "trireme"
    lease_s: float = Field(default=30, ge=1, le=3600)
    timeout_s: float = Field(default=1, gt=0, le=60)
    when_unavailable: Literal["refuse", "allow"] = "refuse"
