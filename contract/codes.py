"""Words that programs compare: why an answer ended, and what kind of error ended a request.

Each is a value of a type, so that a word that isn't one of them is found before anything runs, and
nobody has to look for it in a message that is written for people.
"""

from __future__ import annotations

from typing import Literal

FinishReason = Literal["stop", "tool_calls", "length", "content_filter", "cancelled", "error"]
"""Why an answer ended: by itself or at a stop text, the same with calls of functions in it, out of
tokens, blocked by a policy; or it was cut off, as its client went away or as something failed."""

Ending = FinishReason | Literal[""]
"""Why an answer ended; empty while it goes on."""

RequestErrorCode = Literal[
    "content_filter",
    "context_length_exceeded",
    "invalid_json",
    "invalid_value",
    "missing_required_parameter",
    "model_not_found",
    "previous_response_not_found",
    "request_timeout",
    "request_too_large",
    "headers_too_large",
    "unsupported_parameter",
]
"""What is wrong with a request: its client's to mend, whoever found it."""

ErrorCode = Literal[
    RequestErrorCode,
    # Who asks may not.
    "data_residency",
    "expired_api_key",
    "expired_token",
    "invalid_api_key",
    "invalid_token",
    "origin",
    "permission_denied",
    "revoked_api_key",
    "tenant_locked",
    "unknown_tenant",
    # Not so much.
    "rate_limit_exceeded",
    "request_exceeds_limit",
    # Nothing was done for it.
    "audit_unavailable",
    "deadline_unreachable",
    "identity_unavailable",
    "limits_unavailable",
    "overloaded",
    "queue_full",
    "unavailable",
    # Something was, and it failed.
    "deadline_exceeded",
    "generation_failed",
    "upstream_lost",
]
"""What kind of error it is; none for what needs no word of its own."""
