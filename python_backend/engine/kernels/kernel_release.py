"""``make kernels``: build the libraries of all instruction sets and write their digests.

The compiler comes from a wheel (``requirements/kernels.txt``), builds for every processor on any
machine, and yields the same bytes each time, so ``--check`` can tell whether the libraries in this
checkout are what their sources make. Without the compiler it goes by what they were when they were
built: their digests and that of the sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from python_backend.engine.kernels.kernel_libraries import (
    DIGESTS,
    FLAGS,
    FOLDER,
    LIBRARIES,
    SOURCES,
    TARGET,
    Library,
    are_current,
    digest_of_sources,
    is_as_listed,
)


def build(library: Library, zig: list[str], folder: str) -> bytes:
    """Compile a library.

    Args:
        library: Which one.
        zig: The command.
        folder: For what the compiler writes, its caches among it.

    Raises:
        subprocess.CalledProcessError: The compiler fails.
    """
    output = Path(folder, library.path.name)
    command = [*zig, "cc", "-target", TARGET, f"-mcpu={library.cpu}"]
    # Names without folders: only the sources decide.
    sources = sorted(source.name for source in SOURCES.glob("*.c"))
    caches = {f"ZIG_{each}_CACHE_DIR": folder for each in ("GLOBAL", "LOCAL")}
    subprocess.run(
        [*command, *FLAGS, "-s", "-o", str(output), *sources],
        cwd=SOURCES,
        env={**os.environ, **caches},
        check=True,
    )
    return output.read_bytes()


def outdated() -> list[Path]:
    """What does not belong together, by the digests alone: no compiler is needed."""
    expected = {DIGESTS, *(library.path for library in LIBRARIES)}
    wrong = [path for path in sorted(FOLDER.iterdir()) if path not in expected]
    wrong += [library.path for library in LIBRARIES if not is_as_listed(library)]
    return wrong if are_current() else [DIGESTS, *wrong]


def main(arguments_of_command: list[str] | None = None) -> int:
    """Build all libraries; write them, or compare them with those that are there."""
    parser = argparse.ArgumentParser(prog="make kernels", description=__doc__)
    parser.add_argument(
        "python",
        type=Path,
        nargs="?",
        help="of the environment that has ziglang; none to compare the digests alone",
    )
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    arguments = parser.parse_args(arguments_of_command)
    if arguments.python is None:
        if not arguments.check:
            parser.error("to build them, name the Python of the environment that has ziglang")
        return _told(outdated())
    # Not resolved: the link is what tells Python its environment.
    zig = [str(arguments.python.absolute()), "-m", "ziglang"]
    version = subprocess.check_output([*zig, "version"], text=True).strip()
    digests = {"sources": digest_of_sources(), "compiler": f"ziglang {version}"}
    built = {}
    with tempfile.TemporaryDirectory() as folder:
        for library in LIBRARIES:
            print(f"Building {library.path.name} for {library.cpu}", file=sys.stderr)
            built[library.path] = build(library, zig, folder)
            digests[library.path.name] = hashlib.sha256(built[library.path]).hexdigest()
    text = json.dumps(digests, indent=2) + "\n"
    if arguments.check:
        wrong = [path for path, content in built.items() if _read(path) != content]
        wrong += [DIGESTS] if _read(DIGESTS) != text.encode() else []
        return _told(wrong)
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.so"):
        old.unlink()
    for path, content in built.items():
        path.write_bytes(content)
    DIGESTS.write_text(text, encoding="utf-8")
    return 0


def _told(wrong: list[Path]) -> int:
    for path in wrong:
        print(f"{path} is not what the sources make: run `make kernels`", file=sys.stderr)
    return 1 if wrong else 0


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
