"""API keys and admin tokens: how they are made, taken apart and compared.

A credential is `trireme_<id>_<secret>`, an admin's `triremeadmin_<id>_<secret>`. The id finds it in
the database and may be logged. The secret is 256 random bits, so a plain SHA-256 of the whole is
all that has to be kept: there is nothing to guess that a slower hash would protect.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["trireme", "triremeadmin"]

KEY: Kind = "trireme"
ADMIN: Kind = "triremeadmin"

_ID_BYTES = 8
_SECRET_BYTES = 32
_FORM = re.compile(r"(trireme|triremeadmin)_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")

NOBODY = hashlib.sha256(secrets.token_bytes(_SECRET_BYTES)).hexdigest()
"""A digest that nothing has, to compare with where there is none to compare with."""


@dataclass(frozen=True)
class Credential:
    """A credential in full.

    Attributes:
        id: Its public part.
        text: All of it. Shown once, to the one it is for.
    """

    id: str
    text: str = field(repr=False)

    @property
    def digest(self) -> str:
        """What is kept of it: 64 hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def matches(self, digest: str) -> bool:
        """Whether that digest is this credential's. The time doesn't tell how much of it is."""
        return hmac.compare_digest(self.digest, digest)


def make(kind: Kind) -> Credential:
    """Make a new credential."""
    identity = secrets.token_hex(_ID_BYTES)
    return Credential(identity, f"{kind}_{identity}_{secrets.token_urlsafe(_SECRET_BYTES)}")


def read(kind: Kind, text: str) -> Credential | None:
    """Take a credential apart; None where it has not the form of one of that kind."""
    form = _FORM.fullmatch(text)
    return Credential(form[2], text) if form and form[1] == kind else None


def bearer(authorization: str | None) -> str | None:
    """The credential of an ``Authorization`` header; None where it holds none."""
    scheme, _, text = (authorization or "").partition(" ")
    return text.strip() or None if scheme.lower() == "bearer" else None
