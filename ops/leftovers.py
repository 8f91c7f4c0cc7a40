"""What a Triton that was killed leaves behind: its models' processes, and their shared memory.

Each Triton's regions in ``/dev/shm`` have its process id in their names, and the id of the
namespace that it counts in: containers may share ``/dev/shm`` and not their processes. So what is
taken away is ours for certain, and of a Triton that is gone for certain.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

SHM = Path("/dev/shm")
_PROC = Path("/proc")
_REGION = re.compile(r"trireme_(\d+)_(\d+)_")

REGION_ARGUMENT = (
    '"--backend-config=python,shm-region-prefix-name='
    "trireme_$(readlink /proc/self/ns/pid | tr -dc 0-9)_$$_" + '"'
)
"""Tritonserver's argument that names its regions, for the shell that becomes that tritonserver."""


def sweep(shm: Path = SHM) -> list[str]:
    """End the models' processes of Tritons of ours that are gone, and remove their regions.

    Returns:
        The names of the regions.
    """
    for folder in _PROC.glob("[0-9]*"):
        pid = int(folder.name)
        found = _REGION.search(_command(pid))
        if found and _is_gone(found) and _argument(found) not in _command(pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    removed = []
    for region in sorted(shm.glob("trireme_*")):
        found = _REGION.match(region.name)
        with contextlib.suppress(OSError):
            if found and _is_gone(found) and region.stat().st_uid == os.geteuid():
                region.unlink()
                removed.append(region.name)
    return removed


def _is_gone(region: re.Match[str]) -> bool:
    """Whether the Triton of a region is no more: its id may be another program's by now."""
    return region[1] == _namespace() and _argument(region) not in _command(int(region[2]))


def _argument(region: re.Match[str]) -> str:
    """What only the Triton of a region has on its command line."""
    return f"shm-region-prefix-name={region[0]}"


def _namespace() -> str:
    """The id of the namespace that process ids are counted in here."""
    return re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))


def _command(pid: int) -> str:
    """The command line of a process; empty where there is none."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
