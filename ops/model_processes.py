"""The processes of a Triton's Python models, and how one ended.

Triton 2.51 starts none of them again, and its log says nothing of one that was killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_MODEL_FILE = "model.py"


class ModelProcesses:
    """Those of one tritonserver; whose each is has to be looked up while it lives."""

    def __init__(self, triton_pid: int) -> None:
        self._triton = triton_pid
        self._models: dict[int, str] = {}

    def dead(self) -> frozenset[int]:
        """Those that have ended and that Triton has not asked to.

        One of a model that is unloaded is here for a moment, too.
        """
        dead = set()
        for children in Path(f"/proc/{self._triton}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for pid in map(int, children.read_text().split()):
                    if _stat(pid)[0] == "Z":
                        dead.add(pid)
                    elif not self._models.get(pid):  # before it runs its program it has no name
                        self._models[pid] = _model(pid)
        return frozenset(dead)

    def told(self, pid: int) -> str:
        """What to say of one that has ended, while Triton has not taken note of it."""
        name = self._models.get(pid) or "a model"
        how = ""
        with contextlib.suppress(OSError, ValueError, IndexError):
            status = int(_stat(pid)[-1])
            how = f" {ended(os.waitstatus_to_exitcode(status))}"
        return f"the process of {name} (pid {pid}){how or ' ended'}"


def ended(code: int) -> str:
    """How a process ended, by its exit code: a signal's is below 0."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _stat(pid: int) -> list[str]:
    """The fields of a process's state, from the third on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _model(pid: int) -> str:
    """The model whose file a stub was given; empty where it is none."""
    for word in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0"):
        path = Path(word)
        if path.name == _MODEL_FILE and len(path.parts) > 2:
            return path.parts[-3]
    return ""
