"""The libraries that are built ahead, one for each instruction set, and what they have to be.

They lie in ``lib`` with ``digests.json``, which ``make kernels`` writes: the digest of each, and
that of the sources and flags that they were made from.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path

from contract.errors import EngineError
from python_backend.engine.kernels.kernel_loading import load_bytes
from python_backend.engine.processor import processor_features

SOURCES = Path(__file__).parent
FOLDER = SOURCES / "lib"
DIGESTS = FOLDER / "digests.json"

FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", "-pthread", "-lm")
"""For every library and every compiler."""

TARGET = "x86_64-linux-gnu.2.28"
"""What the libraries run on: NVIDIA's containers, Debian 10, RHEL 8 and later."""

_V2 = frozenset("cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3".split())
_V3 = _V2 | frozenset("abm avx avx2 bmi1 bmi2 f16c fma movbe xsave".split())
_V4 = _V3 | frozenset("avx512f avx512bw avx512cd avx512dq avx512vl".split())


class OutdatedLibrariesError(EngineError):
    """The libraries were built of other sources than those beside them."""


@dataclass(frozen=True)
class Library:
    """One instruction set.

    Attributes:
        name: Of its file in ``lib``.
        cpu: The instruction set, as the compiler that builds it calls it.
        march: The same for GCC and Clang.
        features: What a processor needs to run it, in the words of ``/proc/cpuinfo``.
    """

    name: str
    cpu: str
    march: str
    features: frozenset[str]

    @property
    def path(self) -> Path:
        """Its file."""
        return FOLDER / f"{self.name}.so"


LIBRARIES = (
    Library(
        "avx512_vnni",
        "x86_64_v4+avx512vnni",
        "-march=x86-64-v4 -mavx512vnni",
        _V4 | {"avx512_vnni"},
    ),
    Library("avx512", "x86_64_v4", "-march=x86-64-v4", _V4),
    Library("avx_vnni", "x86_64_v3+avxvnni", "-march=x86-64-v3 -mavxvnni", _V3 | {"avx_vnni"}),
    Library("avx2", "x86_64_v3", "-march=x86-64-v3", _V3),
    Library("sse4", "x86_64_v2", "-march=x86-64-v2", _V2),
)
"""The fastest first. ``sse4`` has no native decoder, but attention and the choice of tokens."""


def best_library() -> Library | None:
    """The fastest library that this processor can run; None where none fits."""
    if platform.machine() != "x86_64":
        return None
    features = processor_features()
    return next((each for each in LIBRARIES if each.features <= features), None)


def named_library(name: str) -> Library:
    """The library of that name.

    Raises:
        EngineError: There is none, or this processor can't run it.
    """
    for library in LIBRARIES:
        if library.name == name:
            break
    else:
        names = ", ".join(each.name for each in LIBRARIES)
        raise EngineError(f"there are no kernels {name}: there are {names}, compiled and none")
    lacking = library.features - processor_features()
    if lacking:
        raise EngineError(f"the kernels {name} need a processor with {', '.join(sorted(lacking))}")
    return library


def load_library(library: Library) -> ctypes.CDLL:
    """Load a library that was built ahead, for a processor that can run it.

    Raises:
        OutdatedLibrariesError: The sources have changed since.
        EngineError: It is not what ``digests.json`` lists.
    """
    if not are_current():
        raise OutdatedLibrariesError(f"{FOLDER} was built of other sources: run `make kernels`")
    try:
        content = library.path.read_bytes()
    except OSError as error:
        raise EngineError(f"{library.path} can't be read: {error}") from error
    if not _is_listed(library, content):
        raise EngineError(
            f"{library.path} is not the library that {DIGESTS.name} lists: restore both, or run "
            "`make kernels`"
        )
    return load_bytes(library.path, content)


def are_current() -> bool:
    """Whether the libraries were built of the sources beside them."""
    return _digests().get("sources") == digest_of_sources()


def is_as_listed(library: Library) -> bool:
    """Whether a library is there, to the byte as ``digests.json`` lists it."""
    return library.path.is_file() and _is_listed(library, library.path.read_bytes())


@functools.cache
def digest_of_sources() -> str:
    """The digest of all that decides what the libraries are, but for the compiler's version.

    Of the sources as this process found them first: its Python is of that time, too.
    """
    return digest_of(FLAGS, TARGET, *((each.name, each.cpu) for each in LIBRARIES))


def digest_of(*more: object) -> str:
    """The digest of the C sources' names and contents, and of what else matters."""
    digest = hashlib.sha256(repr(more).encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        content = source.read_bytes()
        digest.update(f"\n{source.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _is_listed(library: Library, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == _digests().get(library.path.name)


def _digests() -> dict[str, str]:
    try:
        digests = json.loads(DIGESTS.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{DIGESTS} can't be read: {error}") from error
    if not isinstance(digests, dict):
        raise EngineError(f"{DIGESTS} lists no digests")
    return digests
