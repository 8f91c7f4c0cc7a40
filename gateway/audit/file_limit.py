"""How large a file this process may make: `ulimit -f`, or `LimitFSIZE` of its service."""

from __future__ import annotations

import resource

from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_settings import AuditSettings


def most_bytes() -> float:
    """Return the most bytes that a file may have; infinity where there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def segment_bytes(settings: AuditSettings) -> float:
    """Return when a segment is long enough: of a limit on files the half is left for late ends."""
    return min(settings.segment_bytes, most_bytes() / 2)


def check_reserve(settings: AuditSettings) -> None:
    """See whether the space that is kept aside fits into a file.

    Raises:
        AuditError: It doesn't.
    """
    if settings.reserve_bytes > most_bytes():
        raise AuditError(
            f"audit.reserve_bytes is {settings.reserve_bytes}, and this process may write files of "
            f"at most {most_bytes():.0f} bytes (`ulimit -f`, or LimitFSIZE of its service)"
        )
