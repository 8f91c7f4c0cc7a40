"""Signatures are those of OpenSSF Model Signing, to its own tool as well."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from build.artifacts.signing import sign, signing_key
from build.build_errors import BuildError
from contract.errors import ArtifactError
from python_backend.artifact import public_pem, verify_artifact


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights" * 1000)
    (folder / "engine.json").write_text("{}")
    for name in ("engine/rank0.engine", "engine/deep/x", "hf/config.json"):  # TensorRT-LLM's
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


FILES = {"weights.bin", "engine.json", "engine/rank0.engine", "engine/deep/x", "hf/config.json"}


def test_the_key_is_made_once_and_stays_private(tmp_path):
    path = tmp_path / "keys" / "signing.pem"
    made = signing_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = signing_key(path)
    assert made.public_key() == again.public_key()


def test_a_key_that_others_can_read_is_refused(tmp_path):
    signing_key(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(BuildError, match="can be read by others; run: chmod 600"):
        signing_key(tmp_path / "key.pem")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_damaged_key_is_refused(tmp_path, content):
    (tmp_path / "key.pem").touch(0o600)
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(BuildError, match="holds no private key"):
        signing_key(tmp_path / "key.pem")


def test_files_in_folders_are_signed_too(tmp_path, folder):
    key = signing_key(tmp_path / "signing.pem")
    sign(folder, "tiny-1", key)
    assert set(verify_artifact(folder, key.public_key())) == FILES
    (folder / "hf" / "more").touch()
    (folder / "engine" / "link").symlink_to("/etc")
    (folder / "engine" / "rank0.engine").write_text("another")
    with pytest.raises(ArtifactError) as refused:
        verify_artifact(folder, key.public_key())
    for fault in (
        "engine/rank0.engine is not the file that was signed",
        "engine/link was not signed",
        "hf/more was not signed",
    ):
        assert fault in str(refused.value)


def model_signing(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.torch  # the build environment has the official tool
def test_the_official_tool_accepts_our_signature(tmp_path, folder):
    key = signing_key(tmp_path / "signing.pem")
    sign(folder, "tiny-1", key)
    (tmp_path / "trusted.pem").write_bytes(public_pem(key.public_key()))
    keys = ("--public_key", tmp_path / "trusted.pem", "--signature", folder / "model.sig")
    check = ("verify", "key", *keys, folder)
    done = model_signing(*check)
    assert done.returncode == 0, done.stderr
    (folder / "engine.json").write_text("[]")
    done = model_signing(*check)
    assert done.returncode != 0
    assert "engine.json" in done.stdout + done.stderr


@pytest.mark.torch
def test_we_accept_the_official_tools_signature(tmp_path, folder):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (tmp_path / "key.pem").write_bytes(pem)
    made = model_signing(
        "sign", "key", "--private_key", tmp_path / "key.pem", "--signature", folder / "model.sig",
        folder,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert set(verify_artifact(folder, key.public_key())) == FILES
