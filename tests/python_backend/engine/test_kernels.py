"""The C kernels: built ahead, loaded only as they were built, compiled where none fits."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from contract.errors import EngineError
from python_backend.engine.attention import Layout, NumpyAttention, load_attention
from python_backend.engine.kernels import kernel_libraries, kernel_loading, load_kernels
from python_backend.engine.kernels.kernel_compiler import GCC_FLAGS, load_compiled
from python_backend.engine.kernels.kernel_libraries import (
    DIGESTS,
    FOLDER,
    LIBRARIES,
    SOURCES,
    Library,
    best_library,
    digest_of,
)
from tests.python_backend.engine import instruction_sets
from tests.python_backend.engine.descriptions import heads

ROOT = Path(__file__).resolve().parents[3]
COMPILER = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="libraries for x86-64")
SANDY_BRIDGE = "fpu sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 xsave avx"
HASWELL = f"{SANDY_BRIDGE} abm avx2 bmi1 bmi2 f16c fma movbe"
SKYLAKE_X = f"{HASWELL} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """What loads is decided here, also where the tests run under a sanitizer."""
    monkeypatch.delenv("TRIREME_KERNELS", raising=False)
    monkeypatch.delenv("TRIREME_KERNEL_CFLAGS", raising=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trireme"


@pytest.fixture
def lib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the libraries, to do harm to."""
    copy = tmp_path / "lib"
    copy.mkdir()
    for path in (*FOLDER.glob("*.so"), DIGESTS):
        (copy / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(kernel_libraries, "FOLDER", copy)
    monkeypatch.setattr(kernel_libraries, "DIGESTS", copy / DIGESTS.name)
    return copy


@pytest.fixture
def unknown_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_libraries, "processor_features", frozenset)


@pytest.fixture
def changed_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_libraries, "digest_of_sources", lambda: "another")


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that takes no time: it hands out a library that is there."""
    path = tmp_path / "bin" / "cc"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\nexec cp {FOLDER / 'sse4.so'} $2\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=":")
    return path


def best() -> Library:
    library = best_library()
    assert library is not None
    return library


# ---- what is built ahead ------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.name)
def test_a_library_needs_no_newer_c_library_than_it_promises(library: Library) -> None:
    needed = re.findall(rb"GLIBC_(\d+)\.(\d+)", library.path.read_bytes())
    assert needed
    assert max((int(major), int(minor)) for major, minor in needed) <= (2, 28)


@X86
@pytest.mark.parametrize(
    ("features", "name"),
    [
        ("fpu sse2", None),
        (SANDY_BRIDGE, "sse4"),
        (HASWELL, "avx2"),
        (f"{HASWELL} avx_vnni", "avx_vnni"),
        (SKYLAKE_X, "avx512"),
        (f"{SKYLAKE_X} avx512_vnni", "avx512_vnni"),
        (f"{SKYLAKE_X} avx512_vnni avx_vnni amx_int8", "avx512_vnni"),
        (f"{HASWELL} avx512f avx512_vnni", "avx2"),  # no whole AVX-512
    ],
)
def test_a_processor_gets_the_best_library_that_it_can_run(
    monkeypatch: pytest.MonkeyPatch, features: str, name: str | None
) -> None:
    monkeypatch.setattr(kernel_libraries, "processor_features", lambda: frozenset(features.split()))
    library = best_library()
    assert (library and library.name) == name


@X86
def test_no_compiler_is_needed_and_nothing_is_written(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    kernels = load_kernels(1)
    assert kernels is not None
    assert load_kernels(1) is kernels
    assert not cache.exists()


@X86
def test_the_sources_are_read_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    digest_of = kernel_libraries.digest_of

    def count(*more: object) -> str:
        read.append(more)
        return digest_of(*more)

    monkeypatch.setattr(kernel_libraries, "digest_of", count)
    kernel_libraries.digest_of_sources.cache_clear()
    load_kernels(1)
    load_kernels(1)
    assert len(read) == 1


@X86
@pytest.mark.parametrize("name", instruction_sets.parameters())
def test_each_library_loads_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TRIREME_KERNELS", name)
    kernels = load_kernels(1)
    assert kernels is not None
    assert hasattr(kernels, "trireme_decode") == (name != "sse4")


def test_a_name_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIREME_KERNELS", "avx3")
    with pytest.raises(EngineError, match=r"no kernels avx3: there are avx512_vnni, .*none"):
        load_kernels(1)


@pytest.mark.usefixtures("unknown_processor")
def test_a_library_for_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIREME_KERNELS", "sse4")
    with pytest.raises(EngineError, match="the kernels sse4 need a processor with cx16, lahf_lm"):
        load_kernels(1)


# ---- what is loaded -----------------------------------------------------------------------------


@X86
def test_a_library_that_was_changed_is_not_loaded(lib: Path) -> None:
    path = lib / best().path.name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"is not the library that digests\.json lists: restore"):
        load_kernels(1)
    path.unlink()
    with pytest.raises(EngineError, match=r"\.so can't be read"):
        load_kernels(1)


@X86
@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_without_digests_nothing_is_loaded(lib: Path, text: str | None) -> None:
    path = lib / DIGESTS.name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(EngineError, match=r"digests\.json (can't be read|lists no digests)"):
        load_kernels(1)


@X86
def test_what_is_loaded_can_no_longer_be_changed() -> None:
    assert load_kernels(1) is not None
    maps = Path("/proc/self/maps").read_text()
    assert str(FOLDER) not in maps
    assert f"memfd:trireme-{best().name}" in maps
    descriptors = [
        each
        for each in Path("/proc/self/fd").iterdir()
        if each.is_symlink() and f"trireme-{best().name}" in str(each.readlink())
    ]
    assert descriptors
    for each in descriptors:
        with pytest.raises(PermissionError):
            os.pwrite(int(each.name), b"x", 0)


@X86
def test_without_such_memory_a_library_is_loaded_from_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(kernel_loading, "_loaded", {})
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    kernels = load_kernels(1)
    assert kernels is not None
    assert f"{tmp_path}/trireme-" in Path("/proc/self/maps").read_text()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"avx9\.so can't be loaded"):
        kernel_loading.load_bytes(Path("avx9.so"), b"nothing")


# ---- what is compiled ---------------------------------------------------------------------------


@COMPILER
@pytest.mark.slow
@pytest.mark.usefixtures("unknown_processor")
def test_where_none_fits_they_are_compiled_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = load_kernels(1)
    assert kernels is not None
    assert {path.suffix for path in cache.iterdir()} == {".so", ".sha256"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (cache, *cache.iterdir()))
    monkeypatch.setenv("PATH", "")
    assert load_kernels(1) is kernels


@X86
@pytest.mark.parametrize("harm", ["changed", "undigested", "of others", "elsewhere"])
@pytest.mark.usefixtures("compiler")
def test_a_cached_library_that_is_not_surely_ours_is_not_loaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    assert load_compiled() is not None
    (library,) = cache.glob("*.so")
    if harm == "changed":
        library.write_bytes(library.read_bytes() + b"x")
    elif harm == "undigested":
        library.with_suffix(".sha256").unlink()
    elif harm == "of others":
        library.chmod(0o666)
    else:
        library.rename(cache / "other.so")
        library.symlink_to(cache / "other.so")
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", "")
    assert load_compiled() is None
    monkeypatch.setenv("PATH", path)
    assert load_compiled() is not None  # compiled anew
    monkeypatch.setenv("PATH", "")
    assert load_compiled() is not None


@X86
@pytest.mark.usefixtures("compiler")
def test_a_cache_that_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_compiled() is not None


@X86
@pytest.mark.usefixtures("compiler")
def test_nor_does_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert load_compiled() is not None


@X86
@pytest.mark.usefixtures("changed_sources", "compiler")
def test_changed_sources_are_compiled(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_kernels(1) is not None
    assert len(list(cache.glob("*.so"))) == 1
    monkeypatch.setenv("TRIREME_KERNELS", best().name)
    with pytest.raises(EngineError, match="was built of other sources: run `make kernels`"):
        load_kernels(1)


@X86
@pytest.mark.usefixtures("changed_sources", "cache")
def test_changed_sources_without_a_compiler_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineError, match="was built of other sources: run `make kernels`"):
        load_kernels(1)


@X86
@pytest.mark.parametrize(
    ("kernels", "march"), [("", "-march=native"), ("sse4", "-march=x86-64-v2")]
)
def test_further_flags_compile_into_a_file_that_tools_can_read(
    cache: Path,
    compiler: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kernels: str,
    march: str,
) -> None:
    compiler.write_text(
        f'{compiler.read_text()[:-1].replace("exec ", "")}; echo "$@" > {tmp_path}/flags'
    )
    monkeypatch.setenv("TRIREME_KERNELS", kernels)
    monkeypatch.setenv("TRIREME_KERNEL_CFLAGS", "-g '-DA=1 2'")
    assert load_kernels(1) is not None
    assert str(cache) in Path("/proc/self/maps").read_text()
    assert (tmp_path / "flags").read_text().endswith(f"{march} -g -DA=1 2\n")


@pytest.mark.parametrize("kernels", ["none", ""])
@pytest.mark.usefixtures("cache", "unknown_processor")
def test_where_there_are_none_numpy_takes_their_place(
    monkeypatch: pytest.MonkeyPatch, kernels: str
) -> None:
    monkeypatch.setenv("TRIREME_KERNELS", kernels)
    if not kernels:
        monkeypatch.setenv("PATH", "")
    layout = Layout(num_layers=1, num_heads=4, num_kv_heads=4, head_dim=16)
    pool = np.zeros((1, *layout.block_shape), dtype=np.float32)
    rotary = np.zeros((2, 8, 8), dtype=np.float32)
    assert isinstance(load_attention(layout, pool, rotary, 1, [heads()]), NumpyAttention)


def test_a_compiler_that_fails_says_why(
    cache: Path, monkeypatch: pytest.MonkeyPatch, compiler: Path
) -> None:
    compiler.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    monkeypatch.setenv("TRIREME_KERNELS", "compiled")
    with pytest.raises(EngineError, match=r"can't compile .*kernels: no room"):
        load_kernels(1)
    assert not cache.exists()


@X86
@COMPILER
@pytest.mark.parametrize(
    "march", ["x86-64", "haswell", "alderlake", "skylake-avx512", "cascadelake"]
)
def test_the_kernels_compile_without_a_warning(tmp_path: Path, march: str) -> None:
    """Once for the same sources, flags and compiler: the same would come of it again."""
    sources = map(str, sorted(SOURCES.glob("*.c")))
    flags = [*GCC_FLAGS, f"-march={march}", "-Wall", "-Wextra", "-Werror"]
    compiler = subprocess.check_output(["cc", "--version"])
    seen = ROOT / ".cache" / "kernels-without-warning" / digest_of(flags, compiler)
    if seen.exists():
        return
    subprocess.run(["cc", "-o", str(tmp_path / "a.so"), *sources, *flags], check=True)
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.touch()
