"""Recipes for TensorRT-LLM, from the plan to the version and its model repository."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from build.__main__ import UNFINISHED, main
from build.artifacts.artifact_store import Store
from build.artifacts.promotion import Repository
from build.build_errors import BuildError
from build.recipe import TensorRTLLMRecipe, load_recipe
from build.tensorrt_llm.serving import repository_settings
from ensembles.repository_settings import RepositorySettings
from python_backend.artifact import load_public_key, verify_artifact
from tests.build.builds import make_model
from tests.build.tensorrt_llm import stand_ins

RECIPE = """
name: tiny-gpu
checkpoint: model
target:
  engine: tensorrt_llm
  forms: [trtllm, hf]
  weights: fp8
  kv_cache: fp8
  build: {multiple_profiles: enable}
limits: {max_num_sequences: 8, context_length: 256}
"""
OFF = ["--quality", "off", "--reason", "no GPU in this test"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def modelopt(tmp_path: Path) -> Path:
    return stand_ins.install(tmp_path / "modelopt", "python", "modelopt")


@pytest.fixture
def command(tmp_path: Path, recipe: Path, modelopt: Path, monkeypatch) -> list[str]:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return [str(recipe), "--store", f"{tmp_path}/artifacts", "--key", f"{tmp_path}/key.pem",
            "--cache", f"{tmp_path}/cache", "--modelopt", str(modelopt)]  # fmt: skip


def test_the_plan_has_precision_memory_gpus_and_licence(command, capsys):
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for words in (
        "tiny-gpu, for tensorrt_llm",
        "Apache-2.0",
        "weights fp8, activations fp8, KV cache fp8",
        "8 sequences of up to 256 tokens, 8192 tokens a step",
        "1 (tensor parallel 1, pipeline parallel 1)",
        "H100-80GB",
        "not measured",
    ):
        assert words in out


def test_without_tensorrt_llm_the_printed_command_completes_what_is_there(
    tmp_path, command, modelopt, capsys
):
    assert main([*command, *OFF]) == UNFINISHED
    out, err = capsys.readouterr()
    assert "TensorRT-LLM is not installed here. The checkpoint is complete" in out
    assert "10 matrices read back" in err
    assert Store(tmp_path / "artifacts").versions() == []

    docker = shlex.split(next(line for line in out.splitlines() if line.startswith("docker run")))
    inside = docker[docker.index("bash") :]
    stand_ins.install(tmp_path / "bin", "trtllm-build", "trtllm_build")
    subprocess.run(inside, check=True)

    assert main([*command, *OFF]) == 0
    assert stand_ins.calls(modelopt) == 1, "what was quantized is not quantized again"
    artifact = Store(tmp_path / "artifacts").get(1)
    assert artifact.manifest.quality.reason == "no GPU in this test"
    read = json.loads((artifact.folder / "engine" / "config.json").read_text())
    assert (read["max_batch_size"], read["max_seq_len"], read["max_num_tokens"]) == (8, 256, 8192)
    assert read["multiple_profiles"] == "enable"
    assert (artifact.folder / "engine" / "tokenizer.json").is_file()
    assert list((tmp_path / "artifacts" / ".unfinished").iterdir()) == []


def test_a_version_is_signed_whole_and_rendered_for_the_cpp_backend(tmp_path, command, capsys):
    stand_ins.install(tmp_path / "bin", "trtllm-build", "trtllm_build")
    assert main([*command, *OFF]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    artifact = Store(tmp_path / "artifacts").get(1)
    signed = {"engine/rank0.engine", "hf/model.safetensors", "trtllm/config.json", "manifest.json"}
    repository = Repository(tmp_path / "repository")
    repository.trust(_public_key(tmp_path))
    trusted = load_public_key(tmp_path / "repository" / "trusted.pem")
    assert signed <= set(verify_artifact(artifact.folder, trusted))
    with pytest.raises(BuildError, match="served from where it lies"):
        repository.promote(artifact)

    words = shlex.split(printed.partition(": ")[2])
    folder = tmp_path / words[words.index("--repository") + 1]
    words = [sys.executable, *words[1:], "--repository", str(folder)]
    assembled = subprocess.run(
        words, cwd=stand_ins.ROOT, check=True, capture_output=True, text=True
    )
    assert "no engine yet" not in assembled.stdout
    config = text_format.Parse((folder / "tensorrt_llm/config.pbtxt").read_text(), pb.ModelConfig())
    assert (config.backend, config.max_batch_size) == ("tensorrtllm", 8)
    assert config.parameters["gpt_model_path"].string_value == str(artifact.folder / "engine")

    path = artifact.folder / "engine" / "rank0.engine"
    path.chmod(0o644)
    path.write_bytes(b"another engine")
    with pytest.raises(Exception, match=r"engine/rank0\.engine is not the file that was signed"):
        verify_artifact(artifact.folder, trusted)


def _public_key(folder: Path):
    from build.artifacts.signing import signing_key

    return signing_key(folder / "key.pem").public_key()


def test_the_gate_cannot_measure_it_so_a_person_has_to_say_why(tmp_path, command, capsys):
    stand_ins.install(tmp_path / "bin", "trtllm-build", "trtllm_build")
    assert main(command) == 1
    assert "can't measure one for TensorRT-LLM" in capsys.readouterr().err
    assert Store(tmp_path / "artifacts").versions() == []
    assert main([*command, *OFF]) == 0
    assert main(command) == 0
    assert capsys.readouterr().out.endswith("version 1 is up to date\n")
    assert stand_ins.calls(tmp_path / "bin" / "trtllm-build") == 1


def test_an_engine_build_that_fails_leaves_no_engine(tmp_path, command, capsys):
    program = stand_ins.install(tmp_path / "bin", "trtllm-build", "failing_trtllm_build")
    assert main([*command, *OFF]) == 1
    assert "trtllm-build ended with code 17" in capsys.readouterr().err
    assert Store(tmp_path / "artifacts").versions() == []
    stand_ins.install(tmp_path / "bin", "trtllm-build", "trtllm_build")
    assert main([*command, *OFF]) == 0
    assert stand_ins.calls(program) == 2


def test_without_modelopt_it_says_how_to_get_it(tmp_path, command, capsys):
    command[-1] = str(tmp_path / "nowhere" / "python")
    assert main(command) == 1
    assert "`make modelopt` installs NVIDIA ModelOpt" in capsys.readouterr().err


def test_the_llm_apis_settings_follow_from_the_recipe(tmp_path, recipe):
    changes = {"target": {"forms": ["hf"], "tensor_parallel": 2}}
    loaded = load_recipe(recipe, changes)
    assert isinstance(loaded, TensorRTLLMRecipe)
    found = repository_settings(loaded, tmp_path)
    words = [f"{name}={value}" for name, value in found.items()]
    settings = RepositorySettings.from_assignments(words)
    assert settings.engine == "llm_api"
    assert settings.llm_api.model == str(tmp_path / "hf")
    assert (settings.llm_api.tensor_parallel_size, settings.llm_api.max_batch_size) == (2, 8)
    assert (settings.llm_api.max_num_tokens, settings.llm_api.max_seq_len) == (8192, 256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["target.tensor_parallel=3"], "num_attention_heads is 4, which doesn't divide among 3"),
        (["limits.memory_gib=0.1"], "of each GPU, and limits.memory_gib is 0.1"),
        (["target.build.max_input_len=512"], "more than limits.context_length 256"),
        (["target.wieghts=fp8"], "target.wieghts is not a setting; the nearest is weights"),
        (["target.engine=vllm"], "target.engine is 'vllm', not onnx or tensorrt_llm"),
        (["licence.allow=[]"], "the licence of"),
    ],
)
def test_what_cannot_be_built_is_refused_by_the_plan(command, capsys, changes, message):
    words = [word for change in changes for word in ("--set", change)]
    assert main([*command, "--dry-run", *words]) == 1
    assert message in capsys.readouterr().err


def test_an_architecture_without_a_tensorrt_llm_checkpoint_is_refused_by_name(
    tmp_path, command, capsys
):
    make_model(tmp_path / "phi", "phi3")
    assert main([*command, "--dry-run", "--checkpoint", f"{tmp_path}/phi"]) == 1
    assert "Phi3ForCausalLM has no TensorRT-LLM checkpoint" in capsys.readouterr().err
    hf = ["--set", 'target.forms=["hf"]']
    assert main([*command, "--dry-run", "--checkpoint", f"{tmp_path}/phi", *hf]) == 0
