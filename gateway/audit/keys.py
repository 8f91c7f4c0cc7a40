"""The key of the audit log, of which its chains' and its digests' keys are made."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from gateway.audit.audit_errors import AuditError

_FORM = re.compile(r"[0-9a-f]{64}")


class AuditKey:
    """One key and what is derived of it.

    Attributes:
        fingerprint: Names the key without telling it: 16 hexadecimal digits.
    """

    def __init__(self, secret: bytes) -> None:
        self.fingerprint = hashlib.sha256(b"trireme audit fingerprint" + secret).hexdigest()[:16]
        self._chain = hmac.digest(secret, b"trireme audit chain", "sha256")
        self._text = hmac.digest(secret, b"trireme audit text", "sha256")

    def mac(self, previous: str, body: bytes) -> str:
        """Return the MAC of a line, of its body and the MAC before it."""
        return hmac.digest(self._chain, previous.encode() + body, "sha256").hex()

    def digest(self, tenant: str, text: bytes) -> str:
        """Return a tenant's digest of a text: two tenants' digests of one text differ."""
        mac = hmac.new(self._text, tenant.encode() + b"\0", "sha256")
        mac.update(text)  # without a copy and without Python's lock, as it may be long
        return mac.hexdigest()


class AuditKeys:
    """The keys of a file: the last one writes, all of them verify."""

    def __init__(self, keys: list[AuditKey]) -> None:
        self.current = keys[-1]
        self._by_fingerprint = {key.fingerprint: key for key in keys}

    def __iter__(self) -> Iterator[AuditKey]:
        """The newest first."""
        return reversed(self._by_fingerprint.values())

    def find(self, fingerprint: str) -> AuditKey | None:
        """Return a key by its fingerprint."""
        return self._by_fingerprint.get(fingerprint)

    @classmethod
    def load(cls, path: Path) -> AuditKeys:
        """Read a key file: a key a line, 64 hexadecimal digits each, the newest last.

        Raises:
            AuditError: It can't be read, or is no such file.
        """
        try:
            lines = path.read_text(encoding="ascii").split()
        except (OSError, UnicodeDecodeError) as error:
            raise AuditError(f"the audit key {path} can't be read: {error}") from error
        if not lines or not all(_FORM.fullmatch(line) for line in lines):
            raise AuditError(f"{path} holds no audit keys: 64 hexadecimal digits a line")
        return cls([AuditKey(bytes.fromhex(line)) for line in lines])

    @classmethod
    def load_or_create(cls, path: Path) -> AuditKeys:
        """Read a key file, or make one that only its owner can read.

        Raises:
            AuditError: It can be neither read nor made.
        """
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                create_once(path, secrets.token_hex(32) + "\n")
            except OSError as error:
                raise AuditError(f"the audit key {path} can't be made: {error}") from error
        return cls.load(path)


def create_once(path: Path, text: str) -> None:
    """Make a private file with a text, unless somebody else makes it first: whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
