"""Secrets: keys and tokens by the forms that their issuers document.

Libraries for this read files line by line with expressions that backtrack; here a stream is read,
in linear time, so the forms are written down anew. An issuer's prefix makes each of them telling.
"""

from __future__ import annotations

import re
from functools import cache

from python_backend.safety.finder import Finder, PatternFinder, Span
from python_backend.safety.pattern import Pattern

_KEY_HEADER = r"-----BEGIN [A-Z ]{0,24}PRIVATE KEY(?: BLOCK)?-----"
_KEY_BODY = re.compile(r"[A-Za-z0-9+/=\s:,\-]{0,4000}")
_KEY_END = re.compile(r"-----END [A-Z ]{0,24}PRIVATE KEY(?: BLOCK)?-----")

_FORMS = (
    r"(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA)[A-Z2-7]{16}",  # AWS
    r"gh[pousr]_[A-Za-z0-9]{36,255}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{22,255}",
    r"glpat-[A-Za-z0-9_\-]{20,64}",  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9\-]{10,255}",  # Slack
    r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,80}",
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,255}",  # Stripe
    r"sk-[A-Za-z0-9_\-]{20,255}",  # OpenAI, Anthropic and others
    r"AIza[A-Za-z0-9_\-]{35}",  # Google
    r"GOCSPX-[A-Za-z0-9_\-]{28}",
    r"hf_[A-Za-z0-9]{30,64}",  # Hugging Face
    r"nvapi-[A-Za-z0-9_\-]{40,128}",  # NVIDIA
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_\-]{50,255}",
    r"SG\.[A-Za-z0-9_\-]{16,32}\.[A-Za-z0-9_\-]{16,64}",  # SendGrid
    r"dop_v1_[a-f0-9]{64}",  # DigitalOcean
    r"eyJ[A-Za-z0-9_\-]{8,999}\.eyJ[A-Za-z0-9_\-]{8,999}\.[A-Za-z0-9_\-]{8,999}",  # JSON web tokens
    r"[a-z][a-z+]{1,19}://[A-Za-z0-9._%\-]{1,64}:[^\s:@/]{1,128}@",  # a password in an address
)


@cache
def secret_finders() -> tuple[Finder, ...]:
    """A finder for each form."""
    key = _PrivateKey("secret", Pattern(_KEY_HEADER))
    return (key, *(_Secret("secret", Pattern(form)) for form in _FORMS))


class _Secret(PatternFinder):
    """A form that does not begin within a word."""

    def check(self, text: str, start: int, end: int) -> int | None:
        return None if start and text[start - 1].isalnum() else end


class _PrivateKey(PatternFinder):
    """A private key in PEM: from its header to its end, or as far as it goes where it is cut."""

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
