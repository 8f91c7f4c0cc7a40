"""The processor: its name and cores, what it can do, and what ONNX Runtime has to be told of it."""

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
    if processor_features(cpuinfo) & {"avx_vnni", "avx512_vnni"}:
        return {}
    return {"session.x64quantprecision": "1"}


def processor_features(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """What the processor can do and the system lets it, in the kernel's words.

    Args:
        cpuinfo: The kernel's description of the processor; unreadable, nothing is known of it.
    """
    lines = _lines(cpuinfo)
    flags = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(flags, "").split())


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """What the processor calls itself; its architecture where it doesn't.

    Args:
        cpuinfo: The kernel's description of the processor.
    """
    lines = _lines(cpuinfo)
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def _lines(cpuinfo: Path) -> list[str]:
    try:
        return cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
