"""What the lines of the log say."""

from __future__ import annotations

import time as clock
from typing import Any

from gateway.audit.keys import AuditKey
from gateway.interfaces import AuditRecord, CallRecord, Principal

Fields = dict[str, Any]


def header(writer: str, segment: int, key: AuditKey, previous: str, still_open: Any) -> Fields:
    """The first line of a segment.

    `previous` is the MAC before it, for when the segment before is gone, and `open` the beginnings
    that have no end yet, so that a crash is understood from the last segment alone.
    """
    return {
        "event": "segment",
        "time": clock.time(),
        "writer": writer,
        "segment": segment,
        "key": key.fingerprint,
        "previous": previous,
        "open": list(still_open),
    }


def start(process: int, dropped_bytes: int) -> Fields:
    """A process began to write; `dropped_bytes` of a line that a crash had cut short are gone."""
    return {
        "event": "start",
        "time": clock.time(),
        "process": process,
        "dropped_bytes": dropped_bytes,
    }


def begin(request_id: str, time: float, principal: Principal, model: str) -> Fields:
    """A request was taken in."""
    return {
        "event": "begin",
        "time": time,
        "request_id": request_id,
        "tenant": principal.tenant,
        "application": principal.application,
        "key_id": principal.key_id,
        "model": model,
    }


def end(key: AuditKey, record: AuditRecord, begun: int | None) -> Fields:
    """A request ended. Its texts go in as digests; there is none of an empty one."""
    who = record.principal
    return {
        **begin(record.request_id, record.time, who, record.model),
        "event": "end",
        "begun": begun,
        "model_version": record.model_version,
        "upstream": record.upstream,
        "policy": record.policy,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "cached_tokens": record.cached_tokens,
        "charged_prompt_tokens": record.charged_prompt_tokens,
        "charged_output_tokens": record.charged_output_tokens,
        "ttft_s": record.ttft_s,
        "latency_s": record.latency_s,
        "finish_reason": ",".join(record.finish_reasons),
        "status": record.status,
        "code": record.code,
        "verdicts": list(record.verdicts),
        "prompt_digest": key.digest(who.tenant, record.prompt) if record.prompt else None,
        "answer_digest": key.digest(who.tenant, record.answer) if record.answer else None,
    }


def call(call: CallRecord, count: int, until: float) -> Fields:
    """Requests that no model heard of: so many, from the first one's time until the last one's."""
    return {
        "event": "call",
        "time": call.time,
        "until": until,
        "count": count,
        "request_id": call.request_id,
        "tenant": call.tenant,
        "application": call.application,
        "key_id": call.key_id,
        "address": call.address,
        "route": call.route,
        "model": call.model,
        "status": call.status,
        "code": call.code,
    }


def interrupted(begun: Fields) -> Fields:
    """A request was running when its process was killed."""
    return {**begun, "event": "interrupted"}


def damage(segment: int, how: str) -> Fields:
    """Somebody else took away a segment that was being written, or changed it."""
    return {"event": "damage", "time": clock.time(), "segment": segment, "how": how}


def gap(lost: int, since: float) -> Fields:
    """Requests were served while the log couldn't be written, as its settings allow."""
    return {"event": "gap", "time": clock.time(), "since": since, "lost": lost}


def change(actor: str, action: str, subject: str, details: Fields) -> Fields:
    """An administrator changed something."""
    return {
        "event": "change",
        "time": clock.time(),
        "actor": actor,
        "action": action,
        "subject": subject,
        "details": details,
    }
