"""The house keeps its shape: the rooms exist, each imports only what lies before it, serving knows
an engine by its protocol, and no tensor's name is spelt outside the contract.

Read from the syntax tree, so a forbidden import is found wherever it stands, also in a function or
under `if TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import coverage
import pytest

from contract import models, nvidia
from contract.tensors import TensorSet

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

SERVING = "python_backend/serving"
ENGINE = "python_backend.engine"
PROTOCOL = ("engine_core", "sequence", "processor", "engine_config.served_version")
"""All that serving may import of the engine."""
MEASURED = ROOMS.keys() - {"tests", "benchmarks", "model_repository"}
"""Whose coverage is measured."""
LOADS = "onnx_model.py"
"""The one module of serving that loads an engine, and so knows which it is."""

TENSORS = {
    tensor.name
    for module in (models, nvidia)
    for tensors in vars(module).values()
    if isinstance(tensors, type) and issubclass(tensors, TensorSet)
    for tensor in tensors.all()
}
UNSPELT = ("python_backend", "model_repository", "ensembles", "clients", "ops", "gateway/upstreams")
"""Where a tensor is named by its place in the contract, never by its name. The gateway's other
rooms speak no tensors: their words are the APIs' and the names of `GenerationParameters`' fields.
"""
NAMESAKES = {
    "python_backend/engine/cuda_runner.py": {"input_ids"},  # an input of the ONNX graph
    "python_backend/engine/onnx_runner.py": {"input_ids"},
    "python_backend/safety/classifier.py": {"input_ids"},
    "python_backend/engine/kernels/structures.py": {"top_k", "top_p"},  # fields in C
    "python_backend/engine/selection.py": {"top_k", "top_p"},
    "python_backend/engine/onnx_engine.py": {"bad_words", "max_tokens", "stop_words"},  # fields of
    "python_backend/engine/sequence.py": {"max_tokens", "min_tokens", "stop"},  # the parameters
    "python_backend/serving/adapter_model.py": {"stop"},  # a finish reason
    "python_backend/serving/answer.py": {"stop", "tool_calls"},
    "python_backend/tools/manner.py": {"tool_calls", "tools"},  # and a template's variable
    "python_backend/tools/told_tools.py": {"tool_calls"},
    "python_backend/serving/postprocessing.py": {"stop"},
    "python_backend/text/chat_template.py": {"messages", "tools"},  # a chat template's variables
    "python_backend/text/messages.py": {"tool_calls"},  # a field of OpenAI's messages
    "python_backend/text/detokenizer.py": {"stop"},  # of a decoder in `tokenizer.json`
    "clients/__main__.py": {"stop"},  # options of the command line
    "clients/client.py": {"sequence_index"},  # what a result has
    "clients/results.py": {"arrival_time_ns"},  # what its metrics have
    "clients/perf/__main__.py": {"max_tokens"},  # a setting in the report
    "gateway/upstreams/provider_upstream.py": {  # OpenAI's words
        "chat_template_kwargs",
        "finish_reason",
        "max_tokens",
        "messages",
        "parallel_tool_calls",
        "priority",
        "reasoning_effort",
        "stop",
        "thinking_token_budget",
        "tool_calls",
        "tool_choice",
        "tools",
    },
    "ensembles/cpp_backend.py": {"top_k", "top_p"},  # decoding modes of the C++ backend
}
"""Words there that are a tensor's name too and mean something else."""


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


def engine_imports(root: Path) -> list[str]:
    """Return each import in serving of more of the engine than its protocol."""
    return [
        f"{path.relative_to(root)}:{line}: serving may not import {module}"
        for path in sorted((root / SERVING).rglob("*.py"))
        if path.name != LOADS
        for line, module in imports(path.read_text(encoding="utf-8"), path.relative_to(root))
        if f"{module}.".startswith(f"{ENGINE}.")
        and not any(f"{module}.".startswith(f"{ENGINE}.{each}.") for each in PROTOCOL)
    ]


@cache
def spelt_tensors(root: Path, room: str) -> list[tuple[str, int, str]]:
    """Return the file, the line and the word of every string that is a tensor's name."""
    return [
        (path.relative_to(root).as_posix(), node.lineno, node.value)
        for path in sorted((root / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in TENSORS
    ]


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
    known = {"gateway.configuration", "gateway.generation", "gateway.interfaces"}
    assert imported <= known
    assert imported  # from where it is looked for


def test_every_package_is_a_room():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= set(ROOMS)


def test_a_file_s_name_tells_its_room():
    names = [
        path.name
        for room in set(ROOMS) - {"tests", "model_repository"}  # where Triton says the name
        for path in (ROOT / room).rglob("*.py")
        if not path.name.startswith("__")
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert "scheduler.py" in names


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


@pytest.mark.parametrize(
    "path",
    [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests/integration").rglob("test_*.py"))
    ],
)
def test_what_needs_a_tritonserver_says_so(path):
    # Or `make check` starts one.
    assert re.search(r"^pytestmark = .*pytest\.mark\.integration", (ROOT / path).read_text(), re.M)


def test_serving_knows_an_engine_by_its_protocol():
    assert engine_imports(ROOT) == []


@pytest.mark.parametrize(
    ("name", "source", "count"),
    [
        ("engine_loop.py", "from python_backend.engine.onnx_engine import OnnxEngine", 1),
        ("engine_loop.py", "def f():\n    from python_backend.engine import scheduler", 1),
        ("engine_loop.py", "import python_backend.engine", 1),
        ("triton_api.py", "from python_backend.engine.engine_config import EngineConfig", 1),
        ("triton_api.py", "from python_backend.engine.engine_config import served_version", 0),
        ("engine_loop.py", "from python_backend.engine.engine_core import EngineCore", 0),
        ("onnx_model.py", "from python_backend.engine.onnx_engine import OnnxEngine", 0),
    ],
)
def test_what_serving_knows_beyond_the_protocol_is_found(tmp_path, name, source, count):
    (tmp_path / SERVING).mkdir(parents=True)
    (tmp_path / SERVING / name).write_text(source)
    assert len(engine_imports(tmp_path)) == count


def test_coverage_is_of_every_room_wherever_a_process_runs():
    settings = coverage.Coverage(config_file=str(ROOT / "pyproject.toml"))
    assert settings.get_option("run:source") == sorted(MEASURED)
    assert not settings.get_option("run:omit")


@pytest.mark.parametrize("room", UNSPELT)
def test_no_tensor_is_spelt_outside_the_contract(room):
    spelt = [
        f"{path}:{line}: {word} is spelt"
        for path, line, word in spelt_tensors(ROOT, room)
        if word not in NAMESAKES.get(path, ())
    ]
    assert spelt == []


@pytest.mark.parametrize("path", NAMESAKES)
def test_every_namesake_is_still_there(path):
    (room,) = (each for each in UNSPELT if path.startswith(f"{each}/"))
    assert {word for found, _, word in spelt_tensors(ROOT, room) if found == path} == (
        NAMESAKES[path]
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('inputs.array("input_ids")', ["input_ids"]),
        ('NAMES = {"QUERY": 1, **{name: "text_output" for name in ()}}', ["QUERY", "text_output"]),
        ("inputs.array(EngineInputs.INPUT_IDS)", []),
        ('raise ValueError(f"input_ids is {1}")', []),
    ],
)
def test_a_tensor_that_is_spelt_is_found(tmp_path, source, words):
    (tmp_path / "ensembles").mkdir()
    (tmp_path / "ensembles" / "module.py").write_text(source)
    assert [word for _, _, word in spelt_tensors(tmp_path, "ensembles")] == words


def test_the_contract_has_tensors_of_every_model():
    assert {"QUERY", "INPUT_ID", "input_ids", "output_ids", "OUTPUT", "text_input"} <= TENSORS
    assert {"stream_context", "liveness_probes", "safety_verdicts", "draft_logits"} <= TENSORS
