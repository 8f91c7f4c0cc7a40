"""Versions are complete or not there, numbered for good and never changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from build.artifacts import manifest
from build.artifacts.__main__ import main, prune
from build.artifacts.artifact_store import Store
from build.artifacts.manifest import MANIFEST_FILE, RECORD_FILE, DigestCache
from build.artifacts.promotion import Repository
from build.build_errors import BuildError
from tests.build.builds import build_version, make_model, make_plan_of, make_workshop

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_inputs_are_the_same_version(tmp_path, checkpoint):
    first = build_version(tmp_path, checkpoint)
    assert build_version(tmp_path, checkpoint) == first
    assert Store(tmp_path / "artifacts").versions() == [1]


def test_the_same_inputs_give_the_same_digests_elsewhere(tmp_path, checkpoint):
    one = contents(build_version(tmp_path / "one", checkpoint).folder)
    other = contents(build_version(tmp_path / "other", checkpoint).folder)
    assert one[MANIFEST_FILE] == other[MANIFEST_FILE]
    differing = {name for name in one if one[name] != other[name]}
    assert differing <= {RECORD_FILE, "model.sig"}  # the time, and keys of their own


@pytest.mark.parametrize(
    "settings",
    [
        {"target": {"weights": "int4"}},
        {"limits": {"context_length": 64}},
        {"name": "other"},
        {"licence": {"deny": ["MIT"]}},
    ],
)
def test_other_inputs_are_another_version(tmp_path, checkpoint, settings):
    first = build_version(tmp_path, checkpoint)
    second = build_version(tmp_path, checkpoint, **settings)
    assert (first.version, second.version) == (1, 2)


def test_a_changed_checkpoint_is_another_version(tmp_path):
    checkpoint = make_model(tmp_path / "model")
    build_version(tmp_path, checkpoint)
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert build_version(tmp_path, checkpoint).version == 2


def test_files_cannot_be_written_by_accident(tmp_path, checkpoint):
    artifact = build_version(tmp_path, checkpoint)
    assert {path.stat().st_mode & 0o777 for path in artifact.folder.iterdir()} == {0o444}


def test_the_manifest_has_what_a_reader_needs(tmp_path, checkpoint):
    manifest = json.loads((build_version(tmp_path, checkpoint).folder / MANIFEST_FILE).read_text())
    assert manifest["licence"]["licence"] == "Apache-2.0"
    assert manifest["quality"] == {
        **dict.fromkeys(manifest["quality"]),
        "status": "off",
        "reason": "a test that needs no figures",
    }
    assert manifest["recipe"]["target"]["weights"] == "fp32"
    assert "checkpoint" not in manifest["recipe"]
    assert {"weights.bin", "engine.json", "tokenizer.json"} <= set(manifest["files"])
    assert manifest["memory"]["weights_bytes"] > 0
    assert {"numpy", "onnxruntime", "trireme"} <= set(manifest["inputs"]["tools"])


def test_a_number_is_never_given_again(tmp_path, checkpoint):
    build_version(tmp_path, checkpoint)
    store = Store(tmp_path / "artifacts")
    store.remove(1)
    assert build_version(tmp_path, checkpoint).version == 2


def test_two_builds_in_one_store_do_not_mix(tmp_path, checkpoint):
    store = Store(tmp_path / "artifacts")
    with store.staging(), pytest.raises(BuildError, match="another build is at work"):
        build_version(tmp_path, checkpoint)
    assert store.versions() == []
    assert build_version(tmp_path, checkpoint).version == 1


@pytest.mark.parametrize(
    "moment",
    [
        "build.segments.Segment._feed_forward",
        "build.engine_folder.EngineConfig.save",
        "build.pipeline.sign",
        "build.artifacts.artifact_store._flush",
    ],
)
def test_a_killed_build_publishes_nothing(tmp_path, checkpoint, moment):
    build_version(tmp_path, checkpoint)
    store = Store(tmp_path / "artifacts")
    program = (
        "import os, signal\n"
        "import build.engine_folder, build.segments, build.pipeline\n"
        "import build.artifacts.artifact_store\n"
        "from pathlib import Path\n"
        "from tests.build.builds import build_version\n"
        f"{moment} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"build_version(Path({str(tmp_path)!r}), Path({str(checkpoint)!r}),"
        " target={'weights': 'int4'})\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert store.versions() == [1]
    assert build_version(tmp_path, checkpoint, target={"weights": "int4"}).version == 2
    assert not list(store.root.glob(".building*"))


def test_pruning_keeps_what_is_newest_and_what_is_in_use(tmp_path, checkpoint):
    workshop = make_workshop(tmp_path)
    for length in (64, 80, 96, 112, 128):
        build_version(tmp_path, checkpoint, limits={"context_length": length})
    repository = Repository(tmp_path / "repository")
    repository.trust(workshop.key.public_key())
    for version in (1, 2, 3):
        repository.promote(workshop.store.get(version))
    repository.roll_back(workshop.store)
    assert repository.served == 2
    assert prune(workshop.store, repository, keep=1) == [3, 4]
    assert workshop.store.versions() == [1, 2, 5]


def test_the_digest_of_a_file_that_changed_is_computed_anew(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    before = DigestCache(tmp_path / "cache.json").digests([path])
    assert DigestCache(tmp_path / "cache.json").digests([path]) == before
    path.write_text("[]")
    assert DigestCache(tmp_path / "cache.json").digests([path]) != before


def test_the_command_line(tmp_path, checkpoint, capsys):
    where = ["--store", str(tmp_path / "artifacts"), "--repository", str(tmp_path / "repository")]
    assert main([*where, "list"]) == 0
    assert "make build-engines" in capsys.readouterr().out
    build_version(tmp_path, checkpoint)
    key = make_workshop(tmp_path).key.public_key()
    Repository(tmp_path / "repository").trust(key)
    assert main([*where, "promote", "1"]) == 0
    assert main([*where, "verify"]) == 0
    assert main([*where, "list"]) == 0
    out = capsys.readouterr().out
    assert "| served | 1 | tiny | fp32 |" in out
    for command, message in [
        (["promote", "9"], "there is no version 9"),
        (["promote", ""], "name a version"),
        (["rollback"], "there is no version to roll back to"),
    ]:
        assert main([*where, *command]) == 1
        assert message in capsys.readouterr().err


def test_a_damaged_version_is_named_and_not_promoted(tmp_path, checkpoint, capsys):
    where = ["--store", str(tmp_path / "artifacts"), "--repository", str(tmp_path / "repository")]
    for weights in ("fp32", "int4"):
        artifact = build_version(tmp_path, checkpoint, target={"weights": weights})
    Repository(tmp_path / "repository").trust(make_workshop(tmp_path).key.public_key())
    main([*where, "promote", "1"])
    path = artifact.folder / "weights.bin"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\0\1")
    capsys.readouterr()
    assert main([*where, "promote", "2"]) == 1
    assert "weights.bin is not the file that was signed" in capsys.readouterr().err
    assert Repository(tmp_path / "repository").served == 1
    assert main([*where, "verify"]) == 1
    out, err = capsys.readouterr()
    assert "1: holds" in out
    assert "weights.bin" in out
    assert "1 of 2 versions" in err


def test_a_plan_of_nothing_changes_nothing(tmp_path, checkpoint):
    make_plan_of(checkpoint, tmp_path / "cache")
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("name", ["layers.py", "engine_config.py", "tensor_places.py"])
def test_another_description_of_engines_is_another_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Else a version of a former format would be taken for the one that is asked for."""
    before = manifest.tools()["trireme"]
    shutil.copytree(manifest._ENGINE, tmp_path / "engine")
    monkeypatch.setattr(manifest, "_ENGINE", tmp_path / "engine")
    assert manifest.tools()["trireme"] == before
    (tmp_path / "engine" / name).write_text("FORMAT = 4\n")
    assert manifest.tools()["trireme"] != before
