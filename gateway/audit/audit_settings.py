"""The settings of the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from contract.settings_base import Settings


class AuditSettings(Settings):
    """Where requests are written down.

    Attributes:
        directory: The folder of the log. Several gateway processes may share it.
        key_file: The key of digests and chains, made where it is not there; None is ``audit.key``
            beside the folder. Who has it and can write the folder can forge the log.
        segment_bytes: When a new segment begins; each day begins one as well.
        reserve_bytes: Disk space kept aside so that what was taken in before the disk was full can
            still be written down.
        when_unavailable: What happens while the log can't be written, the disk being full, say:
            ``refuse`` requests, or ``serve`` them unaudited and note how many were.
    """

    directory: Path
    key_file: Path | None = None
    segment_bytes: int = Field(default=64 << 20, ge=4 << 10, le=4 << 30)
    reserve_bytes: int = Field(default=4 << 20, ge=4 << 10, le=1 << 30)
    when_unavailable: Literal["refuse", "serve"] = "refuse"
