"""Whether an engine folder is what was built and signed.

An artifact carries an OpenSSF Model Signing signature (``model.sig``): a Sigstore bundle around a
DSSE envelope around an in-toto statement that lists every file with its SHA-256. The official
``model_signing`` package and this module read and write the same format; serving needs only its
elliptic-curve keys, and so only ``cryptography`` instead of that package's forty dependencies.

Format: https://github.com/ossf/model-signing-spec, and DSSE's ``protocol.md`` for what is signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from contract.errors import ArtifactError

SIGNATURE_FILE = "model.sig"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

_NOT_OURS = frozenset({SIGNATURE_FILE, "model.py", "__pycache__"})
"""What else lies in a served version's folder: Triton's model and Python's cache."""

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
_CHUNK_BYTES = 1 << 20


def verify_artifact(
    folder: Path, key: ec.EllipticCurvePublicKey, contents: bool = True
) -> dict[str, str]:
    """Check a folder's signature, and every file in it against what was signed.

    Args:
        folder: An artifact, or a version folder of the model repository that holds one.
        key: The public key to trust.
        contents: Whether the files are read; otherwise it is enough that they are there.

    Returns:
        The SHA-256 of every signed file, in hexadecimal, by its name.

    Raises:
        ArtifactError: The signature is missing or not made with this key, or files are missing,
            changed or not signed; the message names them.
    """
    signed = _signed_digests(folder / SIGNATURE_FILE, key)
    problems = []
    for name, digest in sorted(signed.items()):
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif contents and file_digest(path) != digest:
            problems.append(f"{name} is not the file that was signed")
    problems += [
        f"{name} was not signed"
        for name in artifact_files(folder)
        if name not in signed and name.partition("/")[0] not in _NOT_OURS
    ]
    if problems:
        raise ArtifactError(f"{folder} is refused: {'; '.join(problems)}")
    return signed


def artifact_files(folder: Path) -> list[str]:
    """The paths of all files in a folder and in the folders in it, with ``/`` between; in order."""
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted((path.relative_to(folder).as_posix() for path in files), key=_parts)


def file_digest(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Args:
        path: The file.
        progress: Called with the number of bytes read since it was called last.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            progress(len(chunk))
    return digest.hexdigest()


def root_digest(digests: dict[str, str]) -> str:
    """One digest for many: SHA-256 over the files' digests, in the order of their paths."""
    digest = hashlib.sha256()
    for name in sorted(digests, key=_parts):
        digest.update(bytes.fromhex(digests[name]))
    return digest.hexdigest()


def _parts(path: str) -> list[str]:
    """What the specification sorts paths by."""
    return path.split("/")


def load_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a public key from a PEM file.

    Raises:
        ArtifactError: The file is missing or holds no elliptic-curve key that model signing knows.
    """
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"there is no key at {path} to check signatures with") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} holds no public key in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise ArtifactError(f"{path} is not a key on the curve {', '.join(_HASHES)}")
    return key


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """What names a key: the SHA-256 of its PEM, in hexadecimal."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as PEM."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def signature_algorithm(key: ec.EllipticCurvePublicKey) -> ec.ECDSA:
    """ECDSA with the hash that goes with a key's curve."""
    return ec.ECDSA(_HASHES[key.curve.name]())


def pre_authentication_encoding(payload: bytes) -> bytes:
    """The bytes that a DSSE signature covers: the payload, its type and both lengths."""
    return b"DSSEv1 %d %b %d %b" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(payload),
        payload,
    )


def _signed_digests(path: Path, key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The files that a signature vouches for, with their digests."""
    try:
        bundle = json.loads(path.read_bytes())
        envelope = bundle["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    except FileNotFoundError:
        raise ArtifactError(f"{path.parent} is refused: it is not signed") from None
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ArtifactError(f"{path} is not a signature made with a key: {error!r}") from None
    if hint != key_id(key):
        raise ArtifactError(
            f"{path} was made with another key (its id begins with {str(hint)[:12]}) "
            f"than the one to trust ({key_id(key)[:12]})"
        )
    try:
        key.verify(signature, pre_authentication_encoding(payload), signature_algorithm(key))
    except InvalidSignature:
        raise ArtifactError(f"{path} is refused: the signature does not hold") from None
    try:
        return _digests(json.loads(payload), envelope["payloadType"])
    except (ValueError, TypeError, LookupError) as error:
        raise ArtifactError(f"{path} signs something else than a model: {error!r}") from None


def _digests(statement: dict[str, Any], payload_type: str) -> dict[str, str]:
    found = payload_type, statement["_type"], statement["predicateType"]
    if found != (PAYLOAD_TYPE, STATEMENT_TYPE, PREDICATE_TYPE):
        raise ValueError(f"its type is {found[-1]}")
    predicate = statement["predicate"]
    if predicate["serialization"]["method"] != "files":
        raise ValueError("it is not a list of files")
    digests = {}
    for resource in predicate["resources"]:
        name, algorithm, digest = (resource[key] for key in ("name", "algorithm", "digest"))
        path = PurePosixPath(name)
        if algorithm != "sha256" or path.is_absolute() or ".." in path.parts or str(path) != name:
            raise ValueError(f"{name!r} with {algorithm} is no file of an artifact")
        digests[name] = digest
    if statement["subject"][0]["digest"]["sha256"] != root_digest(digests):
        raise ValueError("its parts do not add up")
    return digests
