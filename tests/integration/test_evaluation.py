"""EleutherAI's lm-evaluation-harness through the gateway, as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ops.gateway_process import GatewayServer
from ops.triton_process import ROOT
from tests.integration.conftest import CHECKPOINT, Server, free_port

pytestmark = pytest.mark.integration

HARNESS = ROOT / os.environ.get("EVALUATION_VENV", ".venv-evaluation") / "bin" / "lm_eval"
TASKS = Path(__file__).parent / "evaluation"


@pytest.mark.skipif(not HARNESS.exists(), reason="needs `make .venv-evaluation/.installed`")
def test_its_three_kinds_of_tasks_run(triton: Server, tmp_path: Path) -> None:
    """Multiple choice and perplexity by log probabilities of an echo, and generation."""
    with GatewayServer(triton.grpc_url, port=free_port(), log=tmp_path / "log") as server:
        where = f"http://{server.address}/v1/completions"
        model = f"model=demo,base_url={where},tokenizer={CHECKPOINT},max_retries=1,max_length=2000"
        done = subprocess.run(
            [
                *(HARNESS, "--model", "local-completions", "--model_args", model),
                *("--tasks", "capitals,answers,perplexity", "--include_path", TASKS),
                *("--output_path", tmp_path / "found"),
            ],
            cwd=TASKS,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (tmp_path / "found").rglob("results_*.json")
    results: dict[str, Any] = json.loads(found.read_text())["results"]
    assert results["capitals"]["acc,none"] == 1
    assert results["answers"]["exact_match,none"] == 1
    assert 1 < results["perplexity"]["byte_perplexity,none"] < 5
