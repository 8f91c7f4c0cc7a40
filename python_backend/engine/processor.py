"""The processor that this runs on: its name, its cores, what ONNX Runtime has to be told of it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def exact_products(cpuinfo: Path = _CPUINFO) -> dict[str, str]:
    """The session options under which int8 engines compute what they mean, here.

    On x86-64 without VNNI instructions, ONNX Runtime's fast kernel adds products of unsigned and
    signed bytes in pairs of 16 bits, which overflow. Told so, it takes a slower kernel, exact
    everywhere; where there is VNNI it would take twice the time and change nothing.

    Args:
        cpuinfo: The kernel's description of the processor; unreadable, the slow kernel is taken.
    """
    try:
        features = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        features = ""
    return {} if "_vnni" in features else {"session.x64quantprecision": "1"}


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """What the processor calls itself; its architecture where it doesn't.

    Args:
        cpuinfo: The kernel's description of the processor.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
