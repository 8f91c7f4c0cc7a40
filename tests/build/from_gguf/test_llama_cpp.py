"""llama.cpp computes of each family's file what an engine that was built from it computes."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.llama_cpp_logits import LlamaCppPredictor
from build.engine_folder import build_engine
from build.from_gguf import unpack
from build.quality.reading import EnginePredictor
from tests.build.from_gguf.gguf_files import write_gguf
from tests.build.from_gguf.test_gguf_checkpoints import KINDS

PYTHON = Path(os.environ.get("LLAMA_CPP_PYTHON", ".cache/peers/llama-cpp/venv/bin/python"))
"""One that has llama-cpp-python; by default of `make bench-peers`' environment."""

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"there is no {PYTHON}")


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_the_same(tmp_path: Path, kind: str) -> None:
    file, folder = tmp_path / "tiny.gguf", tmp_path / "unpacked"
    # Of Phi-3, llama.cpp doesn't heed the window.
    changes = KINDS[kind] | ({"sliding_window": 500} if kind == "phi3" else {})
    write_gguf(file, kind, **changes)
    unpack(file, folder)
    build_engine(folder, folder / "engine", "fp32")
    # More than the original context of `phi3-long`: by its own, llama.cpp takes the long factors.
    tokens = np.random.default_rng(0).integers(3, 58, 90).astype(np.int32)
    ours = EnginePredictor(folder / "engine").logits(tokens, 90)
    with closing(LlamaCppPredictor(PYTHON, file)) as llama_cpp:
        theirs = llama_cpp.logits(tokens, 90).copy()
    # llama.cpp keeps keys and values in float16.
    np.testing.assert_allclose(ours, theirs, atol=0.005 * np.abs(ours).max())
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.97
