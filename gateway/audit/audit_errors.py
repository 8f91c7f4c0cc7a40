"""What can be wrong with an audit log as a whole."""

from __future__ import annotations


class AuditError(Exception):
    """The log or its key can't be used; the message names the file."""
