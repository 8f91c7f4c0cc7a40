"""Reading checkpoints, and what is said of those that cannot be read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from build.build_errors import CheckpointError
from build.checkpoint import Checkpoint
from tests.build.checkpoints import DTYPES, make_checkpoint, make_config, make_tensors


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_are_read_in_their_own_dtype(tmp_path, dtype, shards):
    folder = make_checkpoint(tmp_path, dtype=dtype, shards=shards)
    tensors = make_tensors(make_config(), dtype)
    with Checkpoint(folder) as checkpoint:
        for name, expected in tensors.items():
            assert checkpoint.shape(name) == expected.shape
            assert checkpoint.dtype(name) == expected.dtype
            np.testing.assert_array_equal(checkpoint.tensor(name), expected)


def test_blocks_are_consecutive_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("build.checkpoint._BLOCK_BYTES", 10 * 64 * 4)
    name = "model.embed_tokens.weight"
    with Checkpoint(make_checkpoint(tmp_path)) as checkpoint:
        blocks = list(checkpoint.blocks(name))
        assert [len(block) for block in blocks] == [10] * 10 + [1]
        np.testing.assert_array_equal(np.concatenate(blocks), checkpoint.tensor(name))


def no_folder(folder):
    folder.rename(folder.with_name("elsewhere"))


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text('{"architectures": [')


def config_is_a_list(folder):
    (folder / "config.json").write_text("[]")


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder):
    (folder / "tokenizer.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickled_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def truncated_header(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:50])


def empty_weights(folder):
    (folder / "model.safetensors").write_bytes(b"")


def weights_are_a_web_page(folder):
    (folder / "model.safetensors").write_text("<html>404 Not Found</html>" * 10)


def missing_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def shard_without_its_tensor(folder):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    index = {"weight_map": {"lm_head.weight": "one.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def shard_outside(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def empty_index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_folder, "there is no checkpoint folder at .*checkpoint"),
        (no_config, "has no config.json"),
        (broken_config, "config.json cannot be read"),
        (config_is_a_list, "config.json does not hold a JSON object"),
        (no_tokenizer, "has no tokenizer.json; a slow tokenizer has to be converted"),
        (broken_tokenizer, "tokenizer.json cannot be read"),
        (no_weights, "has neither model.safetensors nor model.safetensors.index.json"),
        (pickled_weights, "in pickle files.* convert them to safetensors"),
        (truncated_weights, "model.safetensors is truncated or damaged"),
        (truncated_header, "model.safetensors is truncated or damaged"),
        (empty_weights, "model.safetensors is truncated or damaged"),
        (weights_are_a_web_page, "model.safetensors is truncated or damaged"),
        (missing_shard, "names model-00001-of-00002.safetensors, which is missing"),
        (shard_without_its_tensor, "lm_head.weight in one.safetensors"),
        (shard_outside, "not a file here"),
        (empty_index, "has no weight_map"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, change, message):
    folder = make_checkpoint(tmp_path / "checkpoint")
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(folder)


def test_a_missing_tensor_and_a_strange_dtype_are_named(tmp_path):
    folder = make_checkpoint(tmp_path)
    save_file({"weight": np.zeros((2, 2), np.int8)}, folder / "model.safetensors")
    with Checkpoint(folder) as checkpoint:
        with pytest.raises(CheckpointError, match=r"no tensor model\.norm\.weight"):
            checkpoint.tensor("model.norm.weight")
        with pytest.raises(CheckpointError, match="weight is stored as I8; only BF16, F16, F32"):
            checkpoint.tensor("weight")
