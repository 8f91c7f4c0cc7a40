"""One version is served at a time, complete, and the way back is open."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from build.artifacts import promotion
from build.artifacts.promotion import TRUSTED_KEY_FILE, Repository
from build.build_errors import BuildError
from contract.errors import ArtifactError
from python_backend.artifact import load_public_key, verify_artifact
from python_backend.engine.engine_config import served_version
from tests.build.builds import build_version, make_model, make_workshop


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A store with three versions; the third has another tokenizer."""
    folder = tmp_path_factory.mktemp("workplace")
    checkpoint = make_model(folder / "tiny")
    build_version(folder, checkpoint)
    build_version(folder, checkpoint, target={"weights": "int4"})
    template = {"chat_template": "{{ messages[0].content }}"}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(template))
    build_version(folder, checkpoint)
    return make_workshop(folder)


@pytest.fixture
def repository(tmp_path, workplace):
    """A repository as it is checked out: Triton's model lies in version 1."""
    model = tmp_path / "repository" / "tensorrt_llm" / "1"
    model.mkdir(parents=True)
    (model / "model.py").write_text("serve()")
    repository = Repository(tmp_path / "repository")
    repository.trust(workplace.key.public_key())
    return repository


def model_file(repository: Repository, version: int) -> str:
    return (repository.root / "tensorrt_llm" / str(version) / "model.py").read_text()


def version_folders(repository: Repository) -> list[str]:
    return sorted(path.name for path in (repository.root / "tensorrt_llm").glob("[0-9]*"))


def test_promotion_puts_a_signed_version_beside_tritons_model(repository, workplace):
    assert repository.served is None
    for version in (1, 2, 1, 2):
        repository.promote(workplace.store.get(version))
        assert repository.served == version
        assert model_file(repository, version) == "serve()"
        folder = repository.root / "tensorrt_llm" / str(version)
        key = load_public_key(repository.root / TRUSTED_KEY_FILE)
        assert "weights.bin" in verify_artifact(folder, key)
    assert version_folders(repository) == ["1", "2"]  # 1 has model.py alone
    assert [path.name for path in (repository.root / "tensorrt_llm" / "1").iterdir()] == [
        "model.py"
    ]


def test_a_version_of_a_former_format_is_to_be_built_again(repository, workplace):
    artifact = workplace.store.get(1)
    recipe = {**artifact.manifest.recipe, "target": {"engine": "onnxruntime"}}
    former = replace(artifact, manifest=artifact.manifest.model_copy(update={"recipe": recipe}))
    with pytest.raises(BuildError, match=r"version 1 is of a format .* no longer load: build it"):
        repository.promote(former)
    assert repository.served is None


def test_files_are_not_copied_where_a_link_will_do(repository, workplace):
    artifact = workplace.store.get(2)
    repository.promote(artifact)
    served = repository.root / "tensorrt_llm" / "2" / "weights.bin"
    assert served.samefile(artifact.folder / "weights.bin")


def test_files_are_copied_where_a_link_will_not_do(repository, workplace, monkeypatch):
    def no_link(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("os.link", no_link)
    artifact = workplace.store.get(2)
    repository.promote(artifact)
    served = repository.root / "tensorrt_llm" / "2" / "weights.bin"
    assert not served.samefile(artifact.folder / "weights.bin")
    assert served.read_bytes() == (artifact.folder / "weights.bin").read_bytes()


def test_rolling_back_goes_to_what_was_served_before(repository, workplace):
    for version in (1, 2):
        repository.promote(workplace.store.get(version))
    assert repository.roll_back(workplace.store) == (2, 1)
    assert repository.served == 1
    assert repository.was_rolled_back(workplace.store.get(2))
    with pytest.raises(BuildError, match="no version to roll back to"):
        repository.roll_back(workplace.store)
    repository.promote(workplace.store.get(2))
    assert not repository.was_rolled_back(workplace.store.get(2))
    assert repository.roll_back(workplace.store) == (2, 1)


def test_another_tokenizer_needs_a_restart(repository, workplace):
    repository.promote(workplace.store.get(1))
    with pytest.raises(BuildError, match="version 3 has another tokenizer than version 1"):
        repository.promote(workplace.store.get(3))
    assert repository.served == 1
    repository.promote(workplace.store.get(3), restart=True)
    assert repository.served == 3
    with pytest.raises(BuildError, match="another tokenizer"):
        repository.roll_back(workplace.store)
    assert repository.roll_back(workplace.store, restart=True) == (3, 1)


def test_the_trusted_key_is_set_once(repository, workplace):
    before = (repository.root / TRUSTED_KEY_FILE).read_bytes()
    repository.trust(ec.generate_private_key(ec.SECP256R1()).public_key())
    assert (repository.root / TRUSTED_KEY_FILE).read_bytes() == before


def test_a_version_signed_with_another_key_is_not_promoted(tmp_path, workplace):
    repository = Repository(tmp_path / "repository")
    repository.trust(ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(ArtifactError, match="made with another key"):
        repository.promote(workplace.store.get(1))
    assert repository.served is None


@pytest.mark.parametrize("moment", ["link_or_copy", "Path.rename", "shutil.copy2"])
def test_an_interrupted_promotion_leaves_the_version_before(
    repository, workplace, monkeypatch, moment
):
    repository.promote(workplace.store.get(1))

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if moment == "Path.rename":
            patch.setattr(Path, "rename", fail)
        elif moment == "shutil.copy2":
            patch.setattr("os.link", fail)
            patch.setattr("shutil.copy2", fail)
        else:
            patch.setattr(promotion, moment, fail)
        with pytest.raises(OSError, match="No space left"):
            repository.promote(workplace.store.get(2))
    assert repository.served == 1
    assert version_folders(repository) == ["1"]
    repository.promote(workplace.store.get(2))
    assert repository.served == 2


def test_the_served_version_is_the_highest_with_an_engine(tmp_path):
    assert served_version(tmp_path) is None
    for number, name in (("1", "model.py"), ("2", "engine.json"), ("10", "engine.json")):
        (tmp_path / number).mkdir()
        (tmp_path / number / name).write_text("{}")
    assert served_version(tmp_path) == tmp_path / "10"
    assert served_version(tmp_path, holding="model.py") == tmp_path / "1"


def test_a_number_that_meant_another_artifact_before_is_not_mistaken_for_it(
    repository, workplace, tmp_path
):
    """As after the store was deleted, and its numbers began anew."""
    repository.promote(workplace.store.get(1))
    repository.promote(workplace.store.get(2))
    repository.roll_back(workplace.store)
    other = build_version(tmp_path, make_model(tmp_path / "other", num_hidden_layers=1))
    assert other.version == repository.served == 1
    assert repository.serves(workplace.store.get(1))
    assert not repository.serves(other)
    assert not repository.was_rolled_back(other)
