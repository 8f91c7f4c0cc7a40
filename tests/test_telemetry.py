"""What runs here tells nobody: ONNX Runtime's telemetry begins as it is imported, unless somebody
has said no before.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("python_backend", "build", "benchmarks")
"""Those that may use ONNX Runtime: the other rooms' environments have it not, or for these."""


def modules() -> Iterator[str]:
    """Every module that imports ONNX Runtime."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            if "onnxruntime" not in source:
                continue
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Import) and any(
                    each.name == "onnxruntime" for each in node.names
                ):
                    yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = tuple(modules())

TELLS = pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 29),
    reason="this ONNX Runtime has no telemetry (Python 3.10 gets one before 1.29)",
)


def files_after(code: str, home: Path, **environment: str) -> list[Path]:
    """What a program leaves in the home of its user."""
    home.mkdir()
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"HOME": str(home), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **environment},
        check=True,
        timeout=600,
    )
    return [path for path in home.rglob("*") if path.is_file()]


@TELLS
def test_it_begins_where_nobody_says_no(tmp_path):
    # Where it doesn't any more, the other tests show nothing.
    assert files_after("import onnxruntime", tmp_path / "home")


@pytest.mark.parametrize("module", MODULES)
def test_it_does_not_begin_here(tmp_path, module):
    assert files_after(f"import {module}", tmp_path / "home") == []


@TELLS
def test_who_wants_it_can_have_it(tmp_path):
    code = "import python_backend, onnxruntime"
    assert files_after(code, tmp_path / "home", ORT_DISABLE_TELEMETRY="0")


def test_there_is_something_to_test():
    assert {"python_backend.engine.onnx_runner", "build.activations"} <= {*MODULES}
