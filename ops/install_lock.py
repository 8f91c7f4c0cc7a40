"""``PYTHON ops/install_lock.py LOCK``: install a lock file in that Python's environment, and tell.

Pip is silent for minutes or writes three lines for each package. This writes how many of the lock's
packages have come: on a terminal in one line, elsewhere a line now and then. Standard library only:
it runs in an environment where nothing is yet.

A lock lists all that is needed with its digests, so pip's resolver has no say, nor has who serves
it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-input")
BY_LOCK = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--progress-bar", "off")

_EVERY_S = 5.0


def main(arguments: list[str]) -> int:
    """Install a lock; pip's exit code."""
    lock = Path(arguments[0])
    command = [*PIP, *BY_LOCK, "--requirement", str(lock)]
    with tempfile.TemporaryFile("w+") as errors:  # warnings are for who has an error
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as pip:
            assert pip.stdout is not None
            for line in told(pip.stdout, packages(lock.read_text(encoding="utf-8"))):
                _write(line)
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)
        if pip.returncode:
            errors.seek(0)
            print(errors.read(), end="", file=sys.stderr)
    return pip.returncode


def packages(lock: str) -> int:
    """How many packages a lock lists."""
    return len(re.findall(r"^[A-Za-z0-9][^ \n]*==", lock, re.MULTILINE))


def told(output: Iterable[str], total: int) -> Iterator[str]:
    """What to tell of pip's output: of each package, and of the last step, which takes a while."""
    come = 0
    for line in output:
        if found := re.match(r"(?:Collecting|Requirement already satisfied:) ([^=\s]+)", line):
            come += 1
            yield f"{come} of {total} packages: {found[1]}"
        elif line.startswith("Installing collected packages"):
            yield "unpacking them"


_last_s = 0.0


def _write(line: str) -> None:
    global _last_s
    if sys.stdout.isatty():
        print(f"\r\x1b[K  {line}", end="", flush=True)
    elif time.monotonic() - _last_s > _EVERY_S or line.startswith("unpacking"):
        _last_s = time.monotonic()
        print(f"  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
