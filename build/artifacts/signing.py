"""Signing an artifact with a local key, in the format of OpenSSF Model Signing.

The signature is one that ``model_signing verify key`` accepts (a test has it do so). The private
key is made on first use, lies outside of every artifact and repository, and never leaves.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from build.build_errors import BuildError
from python_backend.artifact import (
    BUNDLE_TYPE,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    SIGNATURE_FILE,
    STATEMENT_TYPE,
    artifact_files,
    file_digest,
    key_id,
    pre_authentication_encoding,
    root_digest,
    signature_algorithm,
)


def sign(folder: Path, name: str, key: ec.EllipticCurvePrivateKey) -> None:
    """Sign every file of a folder; the signature becomes one of its files.

    Args:
        folder: The finished artifact.
        name: What the statement calls it.
        key: The private key.
    """
    digests = {
        name: file_digest(folder / name)
        for name in artifact_files(folder)
        if name != SIGNATURE_FILE
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root_digest(digests)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE_FILE],
            },
            "resources": [
                {"name": file, "algorithm": "sha256", "digest": digest}
                for file, digest in digests.items()
            ],
        },
    }
    payload = json.dumps(statement).encode()
    signature = key.sign(
        pre_authentication_encoding(payload), signature_algorithm(key.public_key())
    )
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": key_id(key.public_key())},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    (folder / SIGNATURE_FILE).write_text(json.dumps(bundle) + "\n", encoding="utf-8")


def signing_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the private key (PEM, not encrypted); make a P-256 key where there is none yet.

    Raises:
        BuildError: The file holds no elliptic-curve key, or others may read it.
        OSError: It cannot be read or written.
    """
    if not path.exists():
        return _make_key(path)
    if path.stat().st_mode & 0o077:
        raise BuildError(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise BuildError(f"{path} holds no private key that can be used: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BuildError(f"{path} is not an elliptic-curve key")
    return key


def _make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Exclusive: of two builds that begin at once, one makes the key.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return key
