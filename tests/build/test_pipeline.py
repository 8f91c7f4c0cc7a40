"""Whole builds: what passes the gate is published, what is wrong leaves no trace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import build.quantize
import build.storage
from build.__main__ import main
from build.artifacts.artifact_store import Store
from build.artifacts.manifest import tools
from build.artifacts.promotion import Repository
from build.build_errors import CheckpointError, QualityError
from build.pipeline import build as build_plan
from build.quantize import Int8Rows
from contract.version import VERSION
from python_backend.engine.engine_config import EngineConfig
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from tests.build.builds import build_version, make_model, make_plan_of, make_workshop

ROOT = Path(__file__).parents[2]
DEMO_RECIPE = ROOT / "build" / "recipes" / "demo.yaml"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def here(tmp_path):
    return ["--store", f"{tmp_path}/artifacts", "--key", f"{tmp_path}/key.pem", "--cache",
            f"{tmp_path}/cache"]  # fmt: skip


def random_model_bounds() -> list[str]:
    """A random model agrees with itself less than a trained one."""
    bounds = {"max_perplexity_increase": 1, "min_agreement": 0.3}
    return ["--set", f"quality.bounds={json.dumps(bounds)}"]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_build_is_measured_signed_and_published(checkpoint, tmp_path, precision):
    workshop = make_workshop(tmp_path)
    plan = make_plan_of(checkpoint, tmp_path / "cache", target={"weights": precision})
    artifact = build_plan(plan, workshop)
    quality = artifact.manifest.quality
    assert quality.status == "passed"
    assert quality.suite == "general"
    assert quality.engine is not None
    assert quality.agreement is not None
    assert artifact.record.tokens_per_s
    assert artifact.record.trireme == VERSION
    if precision == "fp32":
        assert quality.engine == quality.reference
        assert quality.agreement == 1
    assert build_plan(plan, workshop) == artifact  # and not built again


def test_the_demo_passes_its_own_gate(tmp_path, here, capsys):
    assert main(["demo", "--precision", "int8", *here, "--promote", f"{tmp_path}/repository"]) == 0
    out, err = capsys.readouterr()
    assert "accuracy" in out
    assert "the checkpoint in its own precision" in err
    assert (tmp_path / "repository" / "tensorrt_llm" / "1" / "engine.json").exists()
    # A second one has nothing to do and nothing to say.
    assert main(["demo", "--precision", "int8", *here, "--promote", f"{tmp_path}/repository"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_broken_quantization_does_not_pass(tmp_path, here, capsys, monkeypatch):
    """A zero point that is off: every file is well formed, and the model is another."""
    right = build.quantize.quantize_int8

    def wrong(rows):
        levels, scales = right(rows)
        return Int8Rows(np.clip(levels, -127, 119) + np.int8(8), scales)

    monkeypatch.setattr(build.storage, "quantize_int8", wrong)
    assert main(["demo", "--precision", "int8", *here]) == 1
    err = capsys.readouterr().err
    assert "the quality gate refuses the engine" in err
    for figure in ("perplexity", "max_perplexity_increase", "agreement", "accuracy"):
        assert figure in err
    assert Store(tmp_path / "artifacts").versions() == []


def test_the_gate_stops_at_the_bound(checkpoint, tmp_path):
    bounds = {"quality": {"bounds": {"min_agreement": 1, "max_perplexity_increase": 0}}}
    plan = make_plan_of(checkpoint, tmp_path / "cache", target={"weights": "int4"}, **bounds)
    with pytest.raises(QualityError, match="greedy agreement"):
        build_plan(plan, make_workshop(tmp_path))


def test_turning_the_gate_off_needs_a_reason(checkpoint, tmp_path, here, capsys):
    build = ["--checkpoint", str(checkpoint), *here, "--quality", "off"]
    assert main(build) == 1
    assert "REASON='…'" in capsys.readouterr().err
    assert main([*build, "--reason", "a rehearsal of the release"]) == 0
    manifest = json.loads((tmp_path / "artifacts" / "1" / "manifest.json").read_text())
    assert manifest["quality"]["status"] == "off"
    assert manifest["quality"]["reason"] == "a rehearsal of the release"
    # With the gate on, what was not measured does not count as built.
    assert main(["--checkpoint", str(checkpoint), *here, *random_model_bounds()]) == 0
    assert Store(tmp_path / "artifacts").versions() == [1, 2]


@pytest.mark.parametrize("weights", ["fp16", "fp8"])
def test_an_engine_for_a_gpu_is_not_published_unmeasured_unless_somebody_says_why(
    checkpoint, tmp_path, here, capsys, weights
):
    build = ["--checkpoint", str(checkpoint), *here, "--precision", weights]
    assert main(build) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "onnxruntime" in error
    assert "QUALITY=off REASON='…'" in error
    assert main([*build, "--quality", "off", "--reason", "no GPU in this test"]) == 0
    artifact = Store(tmp_path / "artifacts").get(1)
    config = EngineConfig.load(artifact.folder)
    assert (config.execution_provider, config.precision) == ("cuda", weights)
    assert f"weights {weights}, activations fp16, KV cache fp16" in capsys.readouterr().err


def test_a_dry_run_says_what_would_happen_and_does_nothing(checkpoint, tmp_path, here, capsys):
    assert main(["--checkpoint", str(checkpoint), *here, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for word in ("LlamaForCausalLM", "Apache-2.0", "weights", "KV cache", "suite general"):
        assert word in out
    assert not (tmp_path / "artifacts").exists()


def test_the_recipes_limits_are_what_is_served(checkpoint, tmp_path):
    limits = {"max_num_sequences": 3, "max_num_tokens": 40, "context_length": 64}
    engine = OnnxEngine(build_version(tmp_path, checkpoint, limits=limits).folder)
    for token in range(10, 15):
        prompt = np.full(30, token, np.int32)
        engine.add(Sequence(prompt, SamplingParams(max_tokens=20)))
    engine.step()
    assert engine.batch_size == 2  # 40 tokens hold a prompt of 30 and a part of the next
    engine.step()
    assert len(engine.scheduler.running) == 3
    # Room for three sequences of 64 tokens, as the plan counts it.
    assert engine.scheduler.pool.num_blocks == 3 * 64 // 16


def test_the_kv_cache_is_bounded_where_a_recipe_does_not_say_how_much_memory_there_is(
    checkpoint, tmp_path
):
    many = {"max_num_sequences": 1024, "context_length": 512}
    target = {"weights": "fp32"}
    plan = make_plan_of(checkpoint, tmp_path, limits=many, target=target)
    assert plan.memory.kv_cache_bytes == 256 * 1024 * 512 * 2  # 256 bytes a token and layer
    wide = {"max_num_sequences": 1024, "context_length": None}
    plan = make_plan_of(make_model(tmp_path / "long", max_position_embeddings=8192), tmp_path,
                        limits=wide, target=target)  # fmt: skip
    assert plan.memory.kv_cache_bytes == 1 << 30
    assert "2,097,152 of 8,388,608 tokens" in plan.describe()


def test_serving_that_would_not_fit_is_refused(checkpoint, here, capsys):
    limits = ["--set", "limits.memory_gib=0.001"]
    assert main(["--checkpoint", str(checkpoint), *here, "--dry-run", *limits]) == 1
    assert "limits.memory_gib is 0.001" in capsys.readouterr().err


def test_a_version_that_was_rolled_back_is_not_promoted_by_itself(tmp_path, here, capsys):
    off = ["--quality", "off", "--reason", "a test that needs no figures"]
    promote = ["--promote", f"{tmp_path}/repository"]
    main(["demo", *here, *off, *promote])
    main(["demo", "--precision", "int4", *here, *off, *promote])
    repository = Repository(tmp_path / "repository")
    assert repository.served == 2
    repository.roll_back(Store(tmp_path / "artifacts"))
    capsys.readouterr()
    assert main(["demo", "--precision", "int4", *here, *off, *promote]) == 0
    assert "version 2 was rolled back: version 1 stays" in capsys.readouterr().out
    assert repository.served == 1


def test_a_checkpoint_without_a_licence_needs_one_word(tmp_path, here, checkpoint, capsys):
    mine = tmp_path / "mine"
    shutil.copytree(checkpoint, mine)
    for name in ("README.md", "LICENSE"):
        (mine / name).unlink(missing_ok=True)
    plan = ["--checkpoint", str(mine), *here, "--dry-run"]
    assert main(plan) == 1
    assert "LICENCE='IDENTIFIER: REASON'" in capsys.readouterr().err
    assert main([*plan, "--licence", "LicenseRef-ours: trained by us, for us"]) == 0
    assert "LicenseRef-ours" in capsys.readouterr().out
    assert main([*plan, "--licence", "LicenseRef-ours"]) == 1  # why?
    assert "licence.override.reason" in capsys.readouterr().err


def test_what_is_served_stays_until_another_is_named(tmp_path, here, checkpoint, capsys):
    """Ctrl-C and `make serve` again is no wish for another model."""
    off = ["--quality", "off", "--reason", "a test that needs no figures"]
    promote = [*here, *off, "--promote", f"{tmp_path}/repository"]
    unnamed = ["demo", *promote, "--keep-served"]
    repository = Repository(tmp_path / "repository")
    assert main(unnamed) == 0  # nothing is served yet
    assert repository.name_of(1) == "demo"
    assert main(["--checkpoint", str(checkpoint), "--set", "name=mine", *promote]) == 0
    capsys.readouterr()
    assert main(unnamed) == 0
    assert "version 2 (mine) is served as before; RECIPE=demo" in capsys.readouterr().out
    assert repository.served == 2
    main(["demo", "--precision", "int4", *promote])
    assert main(unnamed) == 0  # the same recipe by name, another by its settings
    assert repository.served == 3
    assert main(["demo", *promote]) == 0
    assert repository.served == 1


def test_an_older_version_of_the_same_recipe_stays_too(tmp_path, here, monkeypatch):
    off = ["--quality", "off", "--reason", "a test that needs no figures"]
    unnamed = ["demo", *here, *off, "--promote", f"{tmp_path}/repository", "--keep-served"]
    repository = Repository(tmp_path / "repository")
    assert main(unnamed) == 0
    other = tools() | {"trireme": "another"}
    monkeypatch.setattr("build.plan.tools", lambda: other)
    assert main(unnamed) == 0  # this checkout's own demo follows its sources
    assert repository.served == 2
    repository.promote(Store(tmp_path / "artifacts").get(1))
    assert main(unnamed) == 0
    assert repository.served == 1


def test_an_engine_that_triton_would_refuse_does_not_pass_for_served(tmp_path, here, capsys):
    off = ["--quality", "off", "--reason", "a test that needs no figures"]
    command = ["demo", *here, *off, "--promote", f"{tmp_path}/repository"]
    served = tmp_path / "repository" / "tensorrt_llm" / "1"
    served.mkdir(parents=True)
    (served / "engine.json").write_text("{}")  # of an older checkout, which nobody signed
    (served / "model.onnx").touch()
    assert main(command) == 0
    assert not (served / "model.onnx").exists()
    capsys.readouterr()
    (served / "model.onnx").touch()
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "Triton would not load version 1" in error
    assert "model.onnx was not signed" in error
    assert "`make promote VERSION=… ARGS=--restart`" in error
    (served / "model.sig").unlink()
    assert main(command) == 1
    assert "it is not signed" in capsys.readouterr().err


# Bad input


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def corrupt(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 64 + path.read_bytes()[64:])


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], np.nan)
    save_file(tensors, folder / "model.safetensors")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def another_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% if")


def endless_context(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 10**9
    (folder / "config.json").write_text(json.dumps(config))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def remote_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))


def other_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["MambaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))


def no_licence(folder: Path) -> None:
    (folder / "README.md").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "model.safetensors is truncated or damaged"),
        (corrupt, "model.safetensors is truncated or damaged"),
        (not_finite, "perplexity nan"),
        (no_tokenizer, "has no tokenizer.json"),
        (another_tokenizer, "tokenizer.json can't be read"),
        (broken_template, "chat template is not valid"),
        (endless_context, "set limits.context_length, to at most 4,194,304"),
        (pickled, "pickle files, which can run code"),
        (remote_code, "brings its own code (modeling_tiny.py), which is never run here"),
        (other_architecture, "MambaForCausalLM is not supported"),
        (no_licence, "is unknown"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, here, capsys, damage, message):
    checkpoint = make_model(tmp_path / "model")
    assert main(["--checkpoint", str(checkpoint), *here, *random_model_bounds()]) == 0
    damage(checkpoint)
    capsys.readouterr()
    assert main(["--checkpoint", str(checkpoint), *here, *random_model_bounds()]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert Store(tmp_path / "artifacts").versions() == [1]


def test_remote_code_that_was_looked_at(tmp_path, here):
    checkpoint = make_model(tmp_path / "model")
    remote_code(checkpoint)
    allowed = ["--set", 'allow_remote_code=["modeling_tiny"]', "--dry-run"]
    assert main(["--checkpoint", str(checkpoint), *here, *allowed]) == 0


@pytest.fixture
def _small_disk(tmp_path):
    """A real file system of 3 MB at ``tmp_path / 'disk'``."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path / "disk")]
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root to mount a small file system")
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.usefixtures("_small_disk")
def test_a_full_disk_leaves_the_version_before(tmp_path):
    small = make_model(tmp_path / "small", num_hidden_layers=1)
    large = make_model(tmp_path / "large", num_hidden_layers=20)
    command = [sys.executable, "-m", "build", "--store", f"{tmp_path}/disk/artifacts", "--key",
               f"{tmp_path}/key.pem", "--cache", f"{tmp_path}/cache", *random_model_bounds(),
               "--promote", f"{tmp_path}/disk/repository"]  # fmt: skip
    done = subprocess.run([*command, "--checkpoint", small], cwd=ROOT, check=False)
    assert done.returncode == 0
    before = sorted(tmp_path.glob("disk/**/*"))
    full = subprocess.run(
        [*command, "--checkpoint", large], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith("error: ")
    assert "No space left on device" in full.stderr
    assert sorted(tmp_path.glob("disk/**/*")) == before


def test_a_plan_says_what_of_a_checkpoint_is_ignored(tmp_path):
    folder = make_model(tmp_path / "checkpoint", sliding_window=32, use_cache=True)
    (folder / "generation_config.json").write_text('{"temperature": 0.7, "eos_token_id": 4}')
    *_, ignored, sampling = make_plan_of(folder, tmp_path).describe().splitlines()
    assert ignored == "note        ignored: sliding_window of config.json, not of LlamaForCausalLM"
    assert sampling == (
        "note        requests say how to sample, not generation_config.json: temperature 0.7"
    )


def test_tables_that_tensorrt_llm_would_tie_are_refused(tmp_path):
    folder = make_model(tmp_path / "checkpoint")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, file)
    (note,) = make_plan_of(folder, tmp_path).notes
    assert "both are built" in note
    target = {"engine": "tensorrt_llm", "weights": "fp8", "forms": ["hf"]}
    with pytest.raises(CheckpointError, match="tie_word_embeddings: set that to false"):
        make_plan_of(folder, tmp_path, target=target, quality={})
