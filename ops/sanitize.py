"""``python -m ops.sanitize``: test the C kernels under the compiler's sanitizers.

AddressSanitizer finds what reads or writes outside of its arrays, UBSan what C leaves undefined,
and ThreadSanitizer two threads at one word without an order. The kernels are compiled with their
checks in, Python is not: it runs with the sanitizer's library before all others, so that numpy's
arrays have guards around them, too. Leaks are not looked for: an interpreter leaks at its end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

KERNEL_CFLAGS = "TRIREME_KERNEL_CFLAGS"
"""The variable by which ``python_backend.engine.kernels`` is told further flags."""

TESTS = (
    "tests/python_backend/engine/test_threads.py",
    "tests/python_backend/engine/test_tiles.py",
    "tests/python_backend/engine/test_attention.py",
    "tests/python_backend/engine/test_selection.py",
    "tests/python_backend/engine/test_native_runner.py",
)
"""Those that run all of the kernels, for each instruction set that this processor has."""


class SanitizeError(Exception):
    """This machine can't run them. The message is for a person."""


RUN = """
import os, sys, pytest
del os.environ["LD_PRELOAD"]
sys.exit(pytest.main(sys.argv[1:]))
"""
"""Runs pytest in a process that has the sanitizer's library. What it starts, the compiler above
all, has it not: a compiler under AddressSanitizer is slow, a shell under ThreadSanitizer dies."""


@dataclass(frozen=True)
class Sanitizer:
    """One or more sanitizers that go together.

    Attributes:
        flags: For the compiler.
        libraries: What has to be loaded before all others.
        options: Environment variables.
    """

    flags: str
    libraries: tuple[str, ...]
    options: dict[str, str]


_COMMON = "-g -O1 -fno-omit-frame-pointer"

SANITIZERS = {
    "address": Sanitizer(
        f"{_COMMON} -fsanitize=address,undefined -fno-sanitize-recover=undefined",
        ("libasan.so", "libubsan.so"),
        {
            "ASAN_OPTIONS": "detect_leaks=0:exitcode=66",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",
        },
    ),
    "thread": Sanitizer(
        f"{_COMMON} -fsanitize=thread",
        ("libtsan.so",),
        # Of what is not compiled with it, it sees no order: only the kernels' own accesses count.
        {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:exitcode=66"},
    ),
}


def environment(sanitizer: Sanitizer, folder: Path) -> dict[str, str]:
    """The environment variables of a Python that tests the kernels with a sanitizer.

    Args:
        sanitizer: Which one.
        folder: Where the compiled kernels are kept.

    Raises:
        SanitizeError: There is no GCC, or it has no such library.
    """
    compiler = shutil.which("gcc")
    if compiler is None:
        raise SanitizeError("the sanitizers need gcc")
    ask = [[compiler, f"-print-file-name={name}"] for name in sanitizer.libraries]
    found = [subprocess.check_output(each, text=True).strip() for each in ask]
    for name in found:
        if not Path(name).is_absolute():  # a name that gcc doesn't know comes back as it went
            raise SanitizeError(f"gcc has no {name}")
    return {
        **os.environ,
        **sanitizer.options,
        "LD_PRELOAD": ":".join(found),
        "XDG_CACHE_HOME": str(folder),
        KERNEL_CFLAGS: sanitizer.flags,
    }


def without_random_addresses() -> list[str]:
    """What to put before a command, so that its memory lies where ThreadSanitizer can follow it."""
    command = ["setarch", "--addr-no-randomize"]
    works = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if works else []  # some containers forbid it; most kernels don't need it


def sanitize(name: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Run the tests with one sanitizer; pytest's exit code, or the sanitizer's, and what they said.

    Raises:
        SanitizeError: This machine can't.
    """
    sanitizer = SANITIZERS[name]
    variables = environment(sanitizer, ROOT / ".cache" / "sanitize" / name)
    pytest = [sys.executable, "-c", RUN, "-q", "-p", "no:cacheprovider", "--timeout", "600"]
    pytest.append("--capture=sys")  # what the sanitizer prints is for the person
    command = [*without_random_addresses(), *pytest, *TESTS, *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=variables,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all sanitizers or those that are named, side by side; 1 where one found something.

    Each compiles the kernels first, which keeps one core busy.
    """
    parser = argparse.ArgumentParser(prog="python -m ops.sanitize", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *SANITIZERS], help="by default all")
    options, pytest = parser.parse_known_args(arguments)
    names = options.names or [*SANITIZERS]
    print(f"sanitizers: {', '.join(names)}; some minutes", flush=True)
    failed = []
    with ThreadPoolExecutor(len(names)) as pool:
        runs = {pool.submit(sanitize, name, pytest): name for name in names}
        try:
            for run in as_completed(runs):
                code, said = run.result()
                print(f"sanitizer: {runs[run]}\n{said}", flush=True)
                if code:
                    failed.append(runs[run])
        except SanitizeError as problem:
            print(problem, file=sys.stderr)
            return 2
    for name in failed:
        print(f"sanitizer {name}: FAILED", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
