"""Secrets: keys and tokens by the forms that their issuers document.

Libraries for this read files line by line with expressions that backtrack; here a stream is read,
in linear time, so the forms are written down anew. An issuer's prefix makes each of them telling.
"""

from __future__ import annotations

import re
from functools import cache

from python_backend.safety.finder import Finder, PatternFinder, Span
from python_backend.safety.pattern import Pattern
from python_backend.safety.telling import MOST_UNTOLD

_KEY_HEADER = r"-----BEGIN [A-Z ]{0,24}PRIVATE KEY(?: BLOCK)?-----"
_KEY_BODY = re.compile(r"[A-Za-z0-9+/=\s:,\-]{0,4000}")
_KEY_END = re.compile(r"-----END [A-Z ]{0,24}PRIVATE KEY(?: BLOCK)?-----")

_PORT_DIGITS = 5

_PASSWORD = (r"[a-z][a-z+]{1,19}://[A-Za-z0-9._%\-]{1,64}:", r"[^\s:@/]{1,128}@")
"""A password in an address."""

_FORMS = (
    # For each form what everybody knows of it, and what is secret.
    (r"(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA)", r"[A-Z2-7]{16}"),  # AWS
    (r"gh[pousr]_", r"[A-Za-z0-9]{36,255}"),  # GitHub
    (r"github_pat_", r"[A-Za-z0-9_]{22,255}"),
    (r"glpat-", r"[A-Za-z0-9_\-]{20,64}"),  # GitLab
    (r"xox[abeoprs]-", r"[A-Za-z0-9\-]{10,255}"),  # Slack
    (r"hooks\.slack\.com/services/", r"[A-Za-z0-9/]{20,80}"),
    (r"[sr]k_(?:live|test)_", r"[A-Za-z0-9]{16,255}"),  # Stripe
    (r"sk-", r"[A-Za-z0-9_\-]{20,255}"),  # OpenAI, Anthropic and others
    (r"AIza", r"[A-Za-z0-9_\-]{35}"),  # Google
    (r"GOCSPX-", r"[A-Za-z0-9_\-]{28}"),
    (r"hf_", r"[A-Za-z0-9]{30,64}"),  # Hugging Face
    (r"nvapi-", r"[A-Za-z0-9_\-]{40,128}"),  # NVIDIA
    (r"npm_", r"[A-Za-z0-9]{36}"),
    (r"pypi-", r"[A-Za-z0-9_\-]{50,255}"),
    (r"SG\.", r"[A-Za-z0-9_\-]{16,32}\.[A-Za-z0-9_\-]{16,64}"),  # SendGrid
    (r"dop_v1_", r"[a-f0-9]{64}"),  # DigitalOcean
    (
        r"eyJ",
        r"[A-Za-z0-9_\-]{8,999}\.eyJ[A-Za-z0-9_\-]{8,999}\.[A-Za-z0-9_\-]{8,999}",
    ),  # JSON web tokens
    _PASSWORD,
)


@cache
def secret_finders() -> tuple[Finder, ...]:
    """A finder for each form."""
    key = _PrivateKey("secret", Pattern(_KEY_HEADER))
    return (key, *(_Secret(*form) for form in _FORMS))


class _Secret(PatternFinder):
    """A form that does not begin within a word."""

    words_tell = False  # what everybody knows of a form is no such word

    def __init__(self, known: str, secret: str) -> None:
        super().__init__("secret", Pattern(known + secret))
        self._known = re.compile(known)
        self._may_be_a_port = (known, secret) == _PASSWORD

    def may_begin(self, text: str, place: int) -> bool:
        return not (place and text[place - 1].isalnum())

    def tells(self, beginning: str) -> bool:
        known = self._known.match(beginning)
        secret = beginning[known.end() :] if known else ""
        if self._may_be_a_port:
            return bool(secret) and not (secret.isdigit() and len(secret) <= _PORT_DIGITS)
        return len(secret) > MOST_UNTOLD

    def check(self, text: str, start: int, end: int) -> int | None:
        return end if self.may_begin(text, start) else None


class _PrivateKey(PatternFinder):
    """A private key in PEM: from its header to its end, or as far as it goes where it is cut."""

    words_tell = False

    def tells(self, beginning: str) -> bool:
        return False  # the header has nothing of the key

    def scan(self, text: str, start: int, final: bool, offset: int = 0) -> tuple[list[Span], int]:
        found: list[Span] = []
        position = start
        headers, horizon = super().scan(text, start, final, offset)
        for header in headers:
            if header.start < position:
                continue
            body = _KEY_BODY.match(text, header.end)
            assert body is not None, "the body may be empty"
            end = _KEY_END.search(text, header.end, body.end())
            if end is None and not final and body.end() == len(text):
                return found, header.start
            position = end.end() if end else body.end()
            found.append(Span(header.start, position))
        return found, max(horizon, position)
