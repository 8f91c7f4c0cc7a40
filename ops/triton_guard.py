"""What keeps a client of Triton from ending it, or from reading what is another's.

Two doors of Triton 2.51 stand open to whoever reaches its ports. One is a header: a gRPC stream
that is sent ``triton_grpc_error: true`` and fails ends Triton by a SIGSEGV now and then (mended in
2.68, server#8708). No option takes the header away, so the packaged program is run from a copy that
doesn't know it. The other is shared memory: a client may register any region of this machine, those
of the Python models too, and have outputs written into it; Triton aborts. That one an option shuts,
and with it what else belongs to the one who runs the server.
"""

from __future__ import annotations

import secrets
from pathlib import Path

CONTROL_HEADER = "trireme-control"
"""The header that carries the token of what is restricted; over gRPC its name is longer."""

_CLOSED = ("shared-memory", "trace", "logging")
"""Nobody is given the token of these, unless models can be loaded anew."""

_HEADER = b"\0triton_grpc_error\0"
# No header's name: those have no space and no capital.
_NO_HEADER = b"\0TRITON GRPC ERROR\0"


def restrictions(control_token: str | None) -> list[str]:
    """Arguments of tritonserver that leave clients inference, health, metadata and statistics.

    Args:
        control_token: Who sends it may load models and do the rest; None is nobody.
    """
    closed = _CLOSED if control_token is None else ("model-repository", *_CLOSED)
    word = f"{','.join(closed)}:{CONTROL_HEADER}={control_token or secrets.token_urlsafe()}"
    return [f"--http-restricted-api={word}", f"--grpc-restricted-protocol={word}"]


def deaf_copy(program: Path, copy: Path) -> Path:
    """Write a copy of a tritonserver that takes no notice of the header, and return what to run.

    The header's name is changed, so that streams fail as they do without it. A program that doesn't
    hold the name just once isn't the one that this was tried with, and is run as it is.
    """
    code = program.read_bytes()
    if code.count(_HEADER) != 1:
        return program
    code = code.replace(_HEADER, _NO_HEADER)
    if not copy.exists() or copy.read_bytes() != code:
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Beside it and then moved: a server may be running from the one before.
        written = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
        written.write_bytes(code)
        written.chmod(0o755)
        written.replace(copy)
    return copy
