"""schemathesis, with all that it makes of the OpenAPI document, finds no server error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.configuration import ServiceSettings
from gateway.services import Services
from ops.triton_process import ROOT
from tests.gateway.fakes import Running, serving

PROGRAM = ROOT / os.environ.get("CLIENTS_VENV", ".venv-clients") / "bin" / "schemathesis"


pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(not PROGRAM.exists(), reason="needs `make .venv-clients/.installed`"),
]


def examine(gateway: Running, folder: Path, *options: str) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    command = [str(PROGRAM), "run", f"{gateway.url}/openapi.json", f"--checks={checks}"]
    done = subprocess.run(
        [*command, "--phases=examples,coverage,fuzzing", "--max-examples=10", "--seed=1", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]


def test_no_server_error(tmp_path):
    with serving() as gateway:
        examine(gateway, tmp_path)


def test_nor_one_for_administrators(tmp_path):
    url = f"sqlite:///{tmp_path}/gateway.db"
    services = Services.open(ServiceSettings(database=SecretStr(url)))
    assert services.administration is not None
    token = services.administration.directory.create_admin("ada").text
    with serving(services=services) as gateway:
        only = "--include-path-regex=^/admin"
        examine(gateway, tmp_path, only, f"--header=Authorization: Bearer {token}")
