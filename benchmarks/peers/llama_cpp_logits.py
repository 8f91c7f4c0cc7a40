"""llama.cpp as a predictor: a process in its own environment, asked for logits a passage at a time.

Run as a program (``python llama_cpp_logits.py FILE MEMORY``) it is that process: a line of JSON
in, the rows in a file that both have mapped, a line out. Run with ``quantize`` it makes a file of
another type, by llama.cpp's own tool.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_TOKENS = 512
_THREADS = 2


class LlamaCppPredictor:
    """A GGUF file, read by llama.cpp."""

    def __init__(self, python: Path, gguf: Path) -> None:
        self._folder = tempfile.TemporaryDirectory()
        memory = Path(self._folder.name) / "logits"
        command = [str(python), __file__, str(gguf), str(memory)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        shape = _MOST_TOKENS, self._answer()["vocab_size"]
        self._rows = np.memmap(memory, np.float32, "r", shape=shape)

    def logits(self, tokens: NDArray[np.int32], rows: int) -> NDArray[np.float32]:
        """The logits after each of the last ``rows`` tokens."""
        assert self._process.stdin is not None
        print(json.dumps([tokens.tolist(), rows]), file=self._process.stdin, flush=True)
        self._answer()
        return self._rows[:rows]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"llama.cpp ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def quantized(python: Path, gguf: Path, kind: str, folder: Path) -> Path:
    """A GGUF file in another type, by llama.cpp's own tool, all settings its defaults."""
    path = folder / f"{gguf.parent.name}.{kind}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(python), __file__, "quantize", str(gguf), str(path), kind]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path


def _quantize(gguf: str, path: str, kind: str) -> None:
    import ctypes

    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = _THREADS
    params.allow_requantize = True
    status = llama_cpp.llama_model_quantize(gguf.encode(), path.encode(), ctypes.byref(params))
    if status:
        raise SystemExit(f"llama_model_quantize returned {status}")


def _serve(gguf: str, memory: str) -> None:
    import ctypes

    import llama_cpp

    llama_cpp.llama_backend_init()
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(
        gguf.encode(), llama_cpp.llama_model_default_params()
    )
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _MOST_TOKENS
    params.n_threads = params.n_threads_batch = _THREADS
    context = llama_cpp.llama_init_from_model(model, params)
    vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = np.memmap(memory, np.float32, "w+", shape=(_MOST_TOKENS, vocab_size))
    batch = llama_cpp.llama_batch_init(_MOST_TOKENS, 0, 1)
    print(json.dumps({"vocab_size": vocab_size}), flush=True)
    for line in sys.stdin:
        tokens, wanted = json.loads(line)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, index
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            batch.logits[index] = index >= len(tokens) - wanted
        status = llama_cpp.llama_decode(context, batch)
        if status:
            raise SystemExit(f"llama_decode returned {status}")
        pointer = ctypes.cast(llama_cpp.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
        rows[:wanted] = np.ctypeslib.as_array(pointer, (wanted, vocab_size))
        print("{}", flush=True)


if __name__ == "__main__":
    _quantize(*sys.argv[2:]) if sys.argv[1] == "quantize" else _serve(*sys.argv[1:])
