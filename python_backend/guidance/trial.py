"""Guides are tried in a process of their own before they are compiled where texts are made.

A guide can be written so that reading it takes minutes, or more stack than there is, and the
library has no bound for either. So a process that has read the vocabulary forks for each guide; the
fork compiles it within bounds that the operating system keeps, and ends. What ended by itself is
compiled again by whoever asked.

``python -m python_backend.guidance.trial TOKENIZER VOCAB_SIZE END_ID...`` is that process: guides
come in and answers go out as lines of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from contract.errors import EngineError, InvalidRequestError
from contract.guides import Guide, refused_guide
from python_backend.guidance.compiler import Compiler

CPU_S = 0.5
"""Processor seconds that compiling a guide may take."""
_MOST_S = 10
"""Seconds by the clock, should it wait for something."""
_MEMORY_BYTES = 1 << 30
_NICENESS = 5
_ROOT = Path(__file__).resolve().parents[2]


class Trial:
    """The process, begun when the first guide comes. Any thread may call it."""

    def __init__(self, tokenizer: Path, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._arguments = [str(tokenizer), str(vocab_size), *map(str, end_ids)]
        self._process: subprocess.Popen[str] | None = None
        self._lock = Lock()

    def check(self, guide: Guide) -> None:
        """Compile a guide there.

        Raises:
            InvalidRequestError: It can't be compiled, or not within the bounds.
            EngineError: The process can't be begun, or has died.
        """
        with self._lock:
            reason = self._ask({"type": guide.type, "text": guide.text})
        if reason:
            raise refused_guide(reason)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, question: dict[str, str]) -> str:
        process = self._process or self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            self._end()
            raise EngineError("the process that tries guides ended")
        return str(json.loads(answer))

    def _begin(self) -> subprocess.Popen[str]:
        # In Triton's process it is none; there the launcher has put ours first.
        is_python = Path(sys.executable).name.startswith("python")
        python = sys.executable if is_python else shutil.which("python") or "python3"
        self._process = subprocess.Popen(
            [python, "-m", __spec__.name, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=_ROOT,
        )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def try_guides(tokenizer: Path, vocab_size: int, end_ids: Sequence[int]) -> None:
    """Answer each guide of the standard input with what is wrong with it, or nothing."""
    compiler = Compiler(tokenizer, vocab_size, end_ids)
    compiler.load()
    os.nice(_NICENESS)
    for line in sys.stdin:
        guide = Guide(**json.loads(line))
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            os.write(writing, _try(compiler, guide).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as answer:
            said = answer.read()
        _, status = os.waitpid(child, 0)
        if status:
            said = f"it takes more than {CPU_S} s of a processor, or too much memory, to compile"
        print(json.dumps(said), flush=True)


def _try(compiler: Compiler, guide: Guide) -> str:
    """In the fork."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.alarm(_MOST_S)
    try:
        compiler.compile(guide)
    except InvalidRequestError as error:
        return error.message.partition(": ")[2]
    return ""


if __name__ == "__main__":
    try_guides(Path(sys.argv[1]), int(sys.argv[2]), [int(each) for each in sys.argv[3:]])
