"""The settings of usage."""

from __future__ import annotations

from pydantic import Field

from contract.settings_base import Settings


class UsageSettings(Settings):
    """How usage is counted.

    Attributes:
        interval_s: How often the audit log is summed up.
    """

    interval_s: float = Field(default=1, gt=0, le=3600)
