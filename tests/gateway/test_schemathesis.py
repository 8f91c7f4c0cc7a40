"""schemathesis, with all that it makes of the OpenAPI document, finds no server error."""

from __future__ import annotations

import os
import subprocess

import pytest

from ops.triton import ROOT
from tests.gateway.fakes import serving

PROGRAM = ROOT / os.environ.get("CLIENTS_VENV", ".venv-clients") / "bin" / "schemathesis"


@pytest.mark.skipif(not PROGRAM.exists(), reason="needs `make .venv-clients/.installed`")
def test_no_server_error(tmp_path):
    with serving() as gateway:
        checks = "not_a_server_error,status_code_conformance,content_type_conformance"
        command = [str(PROGRAM), "run", f"{gateway.url}/openapi.json", f"--checks={checks}"]
        done = subprocess.run(
            [*command, "--phases=examples,coverage,fuzzing", "--max-examples=10", "--seed=1"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:]
