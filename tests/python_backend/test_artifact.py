"""A folder is what was signed, or it is refused by the name of the file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from build.artifacts.signing import sign
from contract.errors import ArtifactError
from python_backend.artifact import (
    SIGNATURE_FILE,
    load_public_key,
    public_pem,
    verify_artifact,
)


@pytest.fixture(scope="module")
def key():
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def artifact(tmp_path, key):
    folder = tmp_path / "3"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 10)
    (folder / "engine.json").write_text("{}")
    sign(folder, "tiny-3", key)
    return folder


def edit_payload(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / SIGNATURE_FILE
    bundle = json.loads(path.read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(payload)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    path.write_text(json.dumps(bundle))


def test_what_was_signed_holds(artifact, key):
    (artifact / "model.py").write_text("from triton import *")
    (artifact / "__pycache__").mkdir()
    assert set(verify_artifact(artifact, key.public_key())) == {"engine.json", "weights.bin"}


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_every_curve_of_model_signing(artifact, curve):
    key = ec.generate_private_key(curve)
    sign(artifact, "tiny-3", key)
    assert verify_artifact(artifact, key.public_key())


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "weights.bin").read_bytes())
    data[1000] ^= 1
    (folder / "weights.bin").write_bytes(data)


def truncate(folder: Path) -> None:
    (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:-1])


def remove(folder: Path) -> None:
    (folder / "engine.json").unlink()


def plant(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def unsign(folder: Path) -> None:
    (folder / SIGNATURE_FILE).unlink()


def break_signature(folder: Path) -> None:
    (folder / SIGNATURE_FILE).write_text("{}")


def swap_digest(folder: Path) -> None:
    def change(payload: dict[str, Any]) -> None:
        payload["predicate"]["resources"][0]["digest"] = "00" * 32

    edit_payload(folder, change)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (flip_a_bit, "weights.bin is not the file that was signed"),
        (truncate, "weights.bin is not the file that was signed"),
        (remove, "engine.json is missing"),
        (plant, "chat_template.jinja was not signed"),
        (unsign, "it is not signed"),
        (break_signature, "model.sig is not a signature"),
        (swap_digest, "the signature does not hold"),
    ],
)
def test_tampering_is_refused_by_name(artifact, key, tamper, message):
    tamper(artifact)
    with pytest.raises(ArtifactError, match=message):
        verify_artifact(artifact, key.public_key())


def test_every_wrong_file_is_named(artifact, key):
    flip_a_bit(artifact)
    remove(artifact)
    plant(artifact)
    with pytest.raises(ArtifactError) as refused:
        verify_artifact(artifact, key.public_key())
    for name in ("weights.bin", "engine.json", "chat_template.jinja"):
        assert name in str(refused.value)


def test_another_key_is_not_trusted(artifact):
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(ArtifactError, match="made with another key"):
        verify_artifact(artifact, other.public_key())


def test_a_signature_by_another_key_that_claims_to_be_ours(artifact, key):
    """The key's id in the bundle is a hint, not a proof."""
    mine = json.loads((artifact / SIGNATURE_FILE).read_text())["verificationMaterial"]
    sign(artifact, "tiny-3", ec.generate_private_key(ec.SECP256R1()))
    bundle = json.loads((artifact / SIGNATURE_FILE).read_text())
    (artifact / SIGNATURE_FILE).write_text(json.dumps({**bundle, "verificationMaterial": mine}))
    with pytest.raises(ArtifactError, match="the signature does not hold"):
        verify_artifact(artifact, key.public_key())


def test_a_signed_path_leads_nowhere_else(artifact, key, monkeypatch):
    def with_a_way_out(value):
        if "predicate" in value:
            value["predicate"]["resources"][0]["name"] = "../outside"
        return json.dumps(value)

    with monkeypatch.context() as patch:
        patch.setattr("build.artifacts.signing.json", SimpleNamespace(dumps=with_a_way_out))
        sign(artifact, "tiny-3", key)
    with pytest.raises(ArtifactError, match="is no file of an artifact"):
        verify_artifact(artifact, key.public_key())


def test_keys_are_read_or_refused(tmp_path, key):
    path = tmp_path / "trusted.pem"
    with pytest.raises(ArtifactError, match="there is no key at"):
        load_public_key(path)
    path.write_text("not a key")
    with pytest.raises(ArtifactError, match="holds no public key"):
        load_public_key(path)
    path.write_bytes(
        ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ArtifactError, match="is not a key on the curve"):
        load_public_key(path)
    path.write_bytes(public_pem(key.public_key()))
    assert load_public_key(path) == key.public_key()
