"""``python -m benchmarks.rounding_cost``: what rounding costs a model, finely, beside llama.cpp.

Engines are built from one checkpoint in several ways, and each is compared, token by token, with
the checkpoint in its own precision: on 57,000 tokens of prose and on the checkpoint's own answers
to 380 questions. A file that llama.cpp's tool made of the checkpoint is read by llama.cpp itself,
the same tokens, and compared in the same way.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.llama_cpp_logits import LlamaCppPredictor, quantized
from benchmarks.peers.prepare import Workshop as Peers
from benchmarks.peers.systems import SYSTEMS
from build.__main__ import changes_of
from build.artifacts.manifest import DigestCache, digest_of
from build.build_errors import RecipeError
from build.checkpoint import GGUF_FILE
from build.pipeline import build_onnx
from build.plan import Plan, make_plan
from build.progress import Progress, ProgressLine
from build.quality.closeness import Closeness, Kept, Passage, Predictor, compare
from build.quality.reading import (
    ANSWER_TOKENS,
    QUESTIONS,
    EnginePredictor,
    answers,
    prose,
)
from build.recipe import OnnxRecipe, Recipe, load_recipe
from build.sources import with_folder

_REFERENCE = "target.weights=fp32 target.smoothing=false"
"""What makes of any recipe the checkpoint in its own precision."""
_OURS = ("", "target.weights=int8_block", "target.weights=int8")


class _Row(NamedTuple):
    name: str
    size_bytes: int
    predictor: Predictor
    kept: Kept


class _Workshop:
    """Builds engines into a folder, each once for its recipe, checkpoint and builder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._digests = DigestCache(options.cache / "digests.json")
        self._folder: Path = options.cache / "compared"
        self.progress = ProgressLine(sys.stderr)

    def plan(self, words: str) -> Plan:
        """What the recipe becomes with some of its settings changed."""
        changes: dict[str, Any] = {"target": {}} | changes_of(words.split())
        target = changes["target"]
        if "weights" in target:
            target |= {name: target.get(name) for name in ("head", "activations", "kv_cache")}
        if self._options.checkpoint:
            changes |= {"checkpoint": str(self._options.checkpoint.resolve()), "package": None}
        recipe: Recipe = load_recipe(Path(self._options.recipe), changes)
        recipe = with_folder(recipe, self._options.cache, self._digests, print, self.progress)
        return make_plan(recipe, self._digests, self.progress)

    def engine(self, words: str) -> Path:
        """The engine of that."""
        plan = self.plan(words)
        if not isinstance(plan.recipe, OnnxRecipe):
            raise RecipeError(f"{plan.recipe.name} is not for ONNX Runtime, where quality is read")
        folder = self._folder / digest_of(plan.inputs.model_dump())[:16]
        if not folder.exists():
            new = folder.with_name(f"{folder.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            build_onnx(plan, plan.recipe, new, self.progress)
            new.rename(folder)
        return folder

    def llama_cpp(self) -> Path:
        """The Python that has llama.cpp, in an environment of its own."""
        given: Path | None = self._options.llama_cpp_python
        system = next(each for each in SYSTEMS if each.name.startswith("llama-cpp"))
        return given or Peers(self._options.cache / "peers").python(system)

    def gguf(self, kind: str) -> Path:
        """The checkpoint's GGUF file, or another that llama.cpp's tool makes of it."""
        file = self.plan("").recipe.checkpoint / GGUF_FILE
        if not file.exists():
            raise RecipeError(f"{file.parent} is not a GGUF file, which llama.cpp's tool needs")
        return file if kind == "as-is" else quantized(self.llama_cpp(), file, kind, self._folder)

    def kept(self, path: Path) -> Kept:
        """Where what is found of an engine or a file beside the reference is remembered."""
        name = path.name if path.is_dir() else self._digests.digests([path])[path.name][:16]
        return Kept(self._folder / "kept" / self.engine(_REFERENCE).name / name)

    def answers(self, folder: Path) -> list[Passage]:
        """What the reference answers to the questions, remembered for its checkpoint."""
        asked = [self.plan(_REFERENCE).inputs.checkpoint, QUESTIONS.read_text(), ANSWER_TOKENS]
        remembered = self._folder / f"answers-{digest_of(asked)[:16]}.npz"
        if not remembered.exists():
            found = answers(folder, self.progress)
            np.savez(
                remembered,
                tokens=np.concatenate([each.tokens for each in found]),
                lengths=[len(each.tokens) for each in found],
                compared=[each.compared for each in found],
            )
        with np.load(remembered) as stored:
            parts = np.split(stored["tokens"], np.cumsum(stored["lengths"])[:-1])
            return list(map(Passage, parts, stored["compared"].tolist()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Build what is missing, compare, and print a table."""
    options = _parser().parse_args(arguments)
    workshop = _Workshop(options)
    folder = workshop.engine(_REFERENCE)
    rows = []
    for words in options.ours if options.ours is not None else _OURS:
        engine = workshop.engine(words)
        own = EnginePredictor(engine)
        rows.append(_Row(words or "the recipe's", own.size_bytes, own, workshop.kept(engine)))
    for kind in options.llama_cpp:
        path = workshop.gguf(kind)
        peer = LlamaCppPredictor(workshop.llama_cpp(), path)
        rows.append(_Row(f"llama.cpp {kind}", path.stat().st_size, peer, workshop.kept(path)))
    reference = EnginePredictor(folder)
    for name in options.texts:
        passages = prose(folder) if name == "prose" else workshop.answers(folder)
        chosen = passages[:: options.every]
        done = partial(_done, workshop.progress, name, len(chosen))
        kept = [row.kept for row in rows] if options.keep else []
        found = compare(reference, [row.predictor for row in rows], chosen, done, kept)
        print(f"\n{name}, {found[0].tokens:,} tokens\n")
        print("| | MB | perplexity | | divergence, nats a token | same likeliest token |")
        print("|---|---:|---:|---:|---:|---:|")
        for row, closeness in zip(rows, found, strict=True):
            print(_line(row, closeness))
        sys.stdout.flush()


def _done(progress: Progress, name: str, total: int, done: int) -> None:
    progress(name, done, total)


def _line(row: _Row, found: Closeness) -> str:
    return (
        f"| {row.name} | {row.size_bytes / 1e6:,.1f} | {found.perplexity:.3f} | "
        f"{found.increase:+.2%} ± {found.increase_error:.2%} | "
        f"{found.divergence:.5f} ± {found.divergence_error:.5f} | {found.agreement:.2%} |"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounding_cost", description=__doc__)
    parser.add_argument("recipe", nargs="?", default="smollm2")
    parser.add_argument("--checkpoint", type=Path, help="takes the place of the recipe's")
    parser.add_argument(
        "--ours",
        action="append",
        metavar="NAME=VALUE …",
        help="settings that change the recipe, for an engine; may be given several times",
    )
    parser.add_argument(
        "--llama-cpp",
        nargs="*",
        default=[],
        metavar="TYPE",
        help="types that llama.cpp's tool makes of a GGUF file, such as Q4_0; as-is is the file",
    )
    parser.add_argument(
        "--llama-cpp-python",
        type=Path,
        metavar="PYTHON",
        help="one that has llama-cpp-python; by default of `make bench-peers`' environment",
    )
    parser.add_argument(
        "--texts", nargs="+", choices=("prose", "answers"), default=["prose", "answers"]
    )
    parser.add_argument("--every", type=int, default=1, help="take only each so many-th passage")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="remember what is found, and go on from what a run that was cut short had found",
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    return parser


if __name__ == "__main__":
    main()
