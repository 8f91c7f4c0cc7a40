"""Programs that stand in for ModelOpt's environment and for ``trtllm-build``, by their interfaces.

The first writes an unquantized TensorRT-LLM checkpoint, whose tensors are read back like any other;
the second takes what the release's own command line takes, and leaves files of the names that
TensorRT-LLM gives. Each notes its calls.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from build.checkpoint import Checkpoint
from tests.build.tensorrt_llm import upstream

ROOT = Path(__file__).parents[3]


def install(folder: Path, name: str, program: str) -> Path:
    """Write a program that calls one of the functions below."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(
        f"#!{sys.executable}\n"
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.build.tensorrt_llm import stand_ins\n"
        f"open({str(folder / f'{name}.calls')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"stand_ins.{program}()\n"
    )
    path.chmod(0o755)
    return path


def calls(program: Path) -> int:
    """How often a program ran."""
    notes = program.with_name(f"{program.name}.calls")
    return len(notes.read_text().splitlines()) if notes.exists() else 0


def modelopt() -> None:
    """``python -m build.tensorrt_llm CHECKPOINT OUTPUT --target … --calibration …``."""
    assert sys.argv[1:3] == ["-m", "build.tensorrt_llm"]
    checkpoint, output = map(Path, sys.argv[3:5])
    target = json.loads(sys.argv[sys.argv.index("--target") + 1])
    print("loading", file=sys.stderr)
    for form in target["forms"]:
        (output / form).mkdir()
        with Checkpoint(checkpoint) as opened:
            (write_trtllm if form == "trtllm" else write_hf)(opened, output / form)
        (output / form / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())


def write_trtllm(checkpoint: Checkpoint, folder: Path) -> None:
    """One rank, nothing quantized."""
    config = checkpoint.config
    tensors = {}
    for index in range(config["num_hidden_layers"]):
        layer, own = f"model.layers.{index}", f"transformer.layers.{index}"
        parts = [checkpoint.tensor(f"{layer}.self_attn.{part}_proj.weight") for part in "qkv"]
        tensors[f"{own}.attention.qkv.weight"] = np.concatenate(parts)
        for name, part in (
            ("attention.dense", "self_attn.o_proj"),
            ("mlp.fc", "mlp.gate_proj"),
            ("mlp.gate", "mlp.up_proj"),
            ("mlp.proj", "mlp.down_proj"),
        ):
            tensors[f"{own}.{name}.weight"] = checkpoint.tensor(f"{layer}.{part}.weight")
    save_file(tensors, folder / "rank0.safetensors")
    written = {
        "mapping": {"tp_size": 1, "pp_size": 1},
        "quantization": {"quant_algo": None},
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": config["num_key_value_heads"],
    }
    (folder / "config.json").write_text(json.dumps(written))


def write_hf(checkpoint: Checkpoint, folder: Path) -> None:
    """The checkpoint as it is."""
    names = checkpoint.names()
    save_file({name: checkpoint.tensor(name) for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(checkpoint.config))


def trtllm_build() -> None:
    """``trtllm-build``, with the options of release 1.2."""
    options = upstream.parser().parse_args()
    assert (Path(options.checkpoint_dir) / "rank0.safetensors").is_file()
    folder = Path(options.output_dir)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(vars(options)))
    (folder / "rank0.engine").write_bytes(b"an engine")


def failing_trtllm_build() -> None:
    """The same, out of memory half way."""
    folder = Path(upstream.parser().parse_args().output_dir)
    folder.mkdir(parents=True)
    (folder / "rank0.engine").write_bytes(b"half an")
    sys.exit(17)
