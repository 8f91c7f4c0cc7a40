"""The model repository: assembling it, here and elsewhere, and what is said about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ensembles import __main__ as command
from ensembles.model_configs import render
from ensembles.repository import SOURCE, assemble, missing_engine, model_configs
from ensembles.repository_settings import RepositorySettings

ROOT = Path(__file__).parents[2]
DEFAULTS = RepositorySettings()
FOREIGN = RepositorySettings(engine="tensorrt_llm")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["ensembles", *map(str, arguments)])
    return command.main()


def test_another_folder_links_to_the_models_here(tmp_path: Path) -> None:
    names = assemble(tmp_path, DEFAULTS)
    assert sorted(names) == ["ensemble", "postprocessing", "preprocessing", "tensorrt_llm"]
    for name in names:
        rendered = render(model_configs(DEFAULTS)[name])
        assert (tmp_path / name / "config.pbtxt").read_text(encoding="utf-8") == rendered
        assert (tmp_path / name / "1").is_dir()
        if name != "ensemble":
            assert (tmp_path / name / "1" / "model.py").samefile(SOURCE / name / "1" / "model.py")
    assert not (tmp_path / "ensemble" / "1" / "model.py").exists()


@pytest.mark.parametrize(
    "name", ["preprocessing", "tensorrt_llm", "tensorrt_llm_adapter", "postprocessing"]
)
def test_a_linked_model_finds_python_backend(tmp_path: Path, name: str) -> None:
    assemble(tmp_path, FOREIGN if name == "tensorrt_llm_adapter" else DEFAULTS)
    # Only Triton has triton_python_backend_utils: to ask for it is to have come that far.
    program = f"import runpy; runpy.run_path({str(tmp_path / name / '1' / 'model.py')!r})"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr.endswith("No module named 'triton_python_backend_utils'\n")


def test_assembling_again_rewrites_nothing(tmp_path: Path) -> None:
    assemble(tmp_path, DEFAULTS)
    files = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    for path in files:
        os.utime(path, ns=(1, 1), follow_symlinks=False)
    assemble(tmp_path, DEFAULTS)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == files
    assert {path.lstat().st_mtime_ns for path in files} == {1}


def test_only_what_changes_is_rewritten(tmp_path: Path) -> None:
    assemble(tmp_path, DEFAULTS)
    for name in model_configs(DEFAULTS):
        os.utime(tmp_path / name / "config.pbtxt", ns=(1, 1))
    assemble(tmp_path, RepositorySettings.from_assignments(["onnx.num_threads=1"]))
    rewritten = {
        path.parent.name for path in tmp_path.glob("*/config.pbtxt") if path.stat().st_mtime_ns != 1
    }
    assert rewritten == {"tensorrt_llm"}


def test_a_model_that_lies_in_the_way_is_replaced_and_the_engine_is_not(tmp_path: Path) -> None:
    version = tmp_path / "tensorrt_llm" / "1"
    version.mkdir(parents=True)
    (version / "engine.json").write_text("{}")
    (version / "model.py").symlink_to(tmp_path / "nowhere.py")
    assemble(tmp_path, DEFAULTS)
    assert (version / "model.py").samefile(SOURCE / "tensorrt_llm" / "1" / "model.py")
    assert (version / "engine.json").read_text() == "{}"


def test_the_command_says_how_tensorrt_llm_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--repository", tmp_path, "--set", "engine=tensorrt_llm") == 0
    output = capsys.readouterr().out
    assert "has no engine: `make build-engines`" in output
    assert f"in NVIDIA's container with: tritonserver --model-repository={tmp_path}" in output


def test_the_command_says_how_ours_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--repository", tmp_path / "re po") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"serve it from {ROOT} with: ")
    printed = f"{last.partition(' with: ')[2]} --help"
    subprocess.run(printed, shell=True, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert run(monkeypatch, "--repository", tmp_path, "--brief") == 0
    assert "serve it" not in capsys.readouterr().out


def test_a_repository_without_an_engine_says_how_to_get_one(tmp_path: Path) -> None:
    assemble(tmp_path, DEFAULTS)
    assert missing_engine(tmp_path, DEFAULTS) == (
        f"`make repository REPOSITORY={tmp_path}`, with the same SETTINGS, builds one and puts it "
        "there"
    )
    (tmp_path / "tensorrt_llm" / "1" / "engine.json").write_text("{}")
    assert missing_engine(tmp_path, DEFAULTS) is None


def test_an_engine_elsewhere_is_looked_for_there(tmp_path: Path) -> None:
    elsewhere = RepositorySettings.from_assignments([f"onnx.engine_dir={tmp_path}/engine"])
    assemble(tmp_path / "repository", elsewhere)
    assert missing_engine(tmp_path / "repository", elsewhere) is not None
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "engine.json").write_text("{}")
    assert missing_engine(tmp_path / "repository", elsewhere) is None


def test_tensorrt_llms_engine_gets_its_adapter_and_leaves_none_behind(tmp_path: Path) -> None:
    assert "tensorrt_llm_adapter" in assemble(tmp_path, FOREIGN)
    adapter = tmp_path / "tensorrt_llm_adapter"
    assert (adapter / "1" / "model.py").samefile(SOURCE / "tensorrt_llm_adapter.py")
    assemble(tmp_path, DEFAULTS)
    assert not adapter.exists()
    adapter.mkdir()
    (adapter / "config.pbtxt").write_text("# somebody's own\n")
    assemble(tmp_path, DEFAULTS)
    assert adapter.exists()


def test_the_command_assembles_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--repository", tmp_path, "--set", "max_batch_size=8") == 0
    output = capsys.readouterr().out
    assert f"{tmp_path}: " in output
    assert f"no engine yet: `make repository REPOSITORY={tmp_path}`" in output
    assert "max_batch_size: 8\n" in (tmp_path / "ensemble" / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("repository", "setting", "message"),
    [
        (".", "max_batch=8", "max_batch is not a setting; the nearest is max_batch_size"),
        ("file", "max_batch_size=8", "Not a directory"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    repository: str,
    setting: str,
    message: str,
) -> None:
    (tmp_path / "file").touch()
    assert run(monkeypatch, "--repository", tmp_path / repository, "--set", setting) == 1
    error = capsys.readouterr().err
    assert error.startswith("ensembles: ")
    assert message in error
    assert error.count("\n") == 1
