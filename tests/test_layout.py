"""The house keeps its shape: the rooms exist, and each imports only what lies before it.

Read from the syntax tree, so a forbidden import is found wherever it stands, also in a function or
under `if TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ROOMS: dict[str, tuple[str, ...]] = {
    "contract": (),
    "python_backend": ("contract",),
    "build": ("python_backend", "contract"),
    "ensembles": ("contract",),
    "model_repository": ("python_backend",),
    "clients": ("contract",),
    "gateway": ("clients", "contract"),
    "ops": ("clients", "contract"),
    "benchmarks": ("*",),
    "tests": ("*",),
}
"""Each room and the modules of other rooms that it may import (`*`: all of them)."""

GROUND = {"pydantic", "yaml", "numpy"}
"""All that `contract` may import beside Python itself."""

TORCH = {"torch", "transformers"}
TORCH_ROOMS = {"build", "benchmarks", "tests"}
"""What serves stays light: torch is for building and for comparing."""


def violations(root: Path, room: str) -> list[str]:
    """Return each import in a room that its line of `ROOMS` does not allow."""
    return [
        f"{path.relative_to(root)}:{line}: {room} may not import {module}"
        for path in sorted((root / room).rglob("*.py"))
        for line, module in imports(path.read_text(encoding="utf-8"), path.relative_to(root))
        if not allowed(room, module)
    ]


def allowed(room: str, module: str) -> bool:
    top = module.partition(".")[0]
    if top in TORCH:
        return room in TORCH_ROOMS
    if room == "contract" and top != room:
        return top in GROUND or top in sys.stdlib_module_names
    if top not in ROOMS or top == room:
        return True
    return any(each == "*" or f"{module}.".startswith(f"{each}.") for each in ROOMS[room])


def imports(source: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of every module, or name in a module, that is imported."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.parts[: len(path.parts) - node.level] if node.level else ()
            origin = ".".join([*package, *filter(None, [node.module])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_the_room_exists(room):
    assert (ROOT / room).is_dir()


@pytest.mark.parametrize("room", ROOMS)
def test_the_room_imports_only_what_lies_before_it(room):
    assert violations(ROOT, room) == []


def test_what_observes_knows_nothing_of_what_it_observes():
    # The application registers what metrics show; see `gateway/app.py`.
    imported = {
        module.rpartition(".")[0]
        for path in sorted((ROOT / "gateway/observability").glob("*.py"))
        for _, module in imports(path.read_text(encoding="utf-8"), path.relative_to(ROOT))
        if module.startswith("gateway.")
    }
    assert imported <= {
        "gateway.configuration",
        "gateway.generation",
        "gateway.interfaces",
    }


def test_every_package_is_a_room():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= set(ROOMS)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("python_backend", "import clients"),
        ("python_backend", "def f():\n    from build.engine import build_engine"),
        ("python_backend", "import torch.nn as nn"),
        ("clients", "from python_backend.engine import scheduler"),
        ("clients", "from python_backend import engine"),
        ("clients", "import python_backend"),
        ("ensembles", "from transformers import AutoTokenizer"),
        ("ops", "if True:\n    import python_backend.serving"),
        ("contract", "import tritonclient.grpc"),
        ("contract", "from clients import Client"),
        ("ops", "from ..build import engine"),
        ("gateway", "from ops import triton_process"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, room, source):
    (tmp_path / room).mkdir()
    (tmp_path / room / "module.py").write_text(source)
    assert len(violations(tmp_path, room)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("python_backend", "import numpy\nfrom python_backend.engine import scheduler"),
        ("clients", "from contract.names import ENSEMBLE\nfrom . import perf_analyzer"),
        ("contract", "import json\nfrom pydantic import Field\nfrom contract import tensors"),
        ("build", "import torch\nfrom python_backend.engine.engine_config import EngineConfig"),
        ("tests", "import torch, ops.serve, build"),
    ],
)
def test_an_allowed_import_passes(tmp_path, room, source):
    (tmp_path / room).mkdir()
    (tmp_path / room / "module.py").write_text(source)
    assert violations(tmp_path, room) == []


def test_the_tests_of_every_room_are_collected(pytestconfig):
    # Many tools take a folder named `build` for outputs and pass over it.
    assert not set(pytestconfig.getini("norecursedirs")) & set(ROOMS)
