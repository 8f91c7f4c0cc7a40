"""``python -m build``: from a recipe to a signed version, on the command line.

The exit code is 0, or 1 after an error, or 3 where all is done that this machine can do.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from build.artifacts.artifact_store import Artifact, Store
from build.artifacts.manifest import DigestCache
from build.artifacts.promotion import Repository
from build.artifacts.signing import signing_key
from build.build_errors import BuildError, RecipeError, UnfinishedError
from build.pipeline import Workshop, build
from build.plan import make_plan
from build.progress import ProgressLine
from build.recipe import Recipe, TensorRTLLMRecipe, load_recipe, make_recipe
from build.sources import with_folder
from build.tensorrt_llm.serving import assemble_command
from contract.errors import TriremeError

UNFINISHED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except UnfinishedError as unfinished:
        print(unfinished)
        return UNFINISHED
    except (TriremeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    recipe = _recipe(options)
    quality_off = _quality_off(options)
    if options.promote and isinstance(recipe, TensorRTLLMRecipe):
        raise RecipeError(
            f"{recipe.name} is for TensorRT-LLM, which is served from the version's own folder: "
            "`make build-engines` says how"
        )
    progress = ProgressLine(sys.stderr)
    digests = DigestCache(options.cache / "digests.json")
    recipe = with_folder(recipe, options.cache, digests, _say, progress)
    plan = make_plan(recipe, digests, progress)
    if options.dry_run:
        print(plan.describe())
        return
    store = Store(options.store)
    if options.promote and options.keep_served:
        repository = Repository(options.promote)
        kept = repository.kept_from(plan.inputs.recipe, store)
        if kept is not None:
            print(
                f"version {kept} ({repository.name_of(kept)}) is served as before; "
                f"RECIPE={recipe.name} serves the {recipe.name} model"
            )
            repository.check()
            return
    key = signing_key(options.key)
    workshop = Workshop(
        store=store,
        key=key,
        cache=options.cache,
        modelopt=options.modelopt,
        progress=progress,
        say=_say,
    )
    known = store.versions()
    artifact = build(plan, workshop, quality_off)
    if artifact.version not in known:
        print(_summary(artifact))
        if isinstance(recipe, TensorRTLLMRecipe):
            print(f"its model repository: {assemble_command(recipe, artifact.folder)}")
    elif not options.promote:
        print(f"version {artifact.version} is up to date")
    if options.promote:
        repository = Repository(options.promote)
        repository.trust(key.public_key())
        _promote(repository, artifact)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _promote(repository: Repository, artifact: Artifact) -> None:
    """Serve a version that was built, unless it is served already or was given up."""
    if repository.was_rolled_back(artifact):
        print(
            f"version {artifact.version} was rolled back: version {repository.served} stays "
            f"(make promote VERSION={artifact.version} takes it again)"
        )
    elif not repository.serves(artifact):
        repository.promote(artifact, restart=True)  # a Triton that runs is not told of it
    repository.check()


def _recipe(options: argparse.Namespace) -> Recipe:
    changes = changes_of(options.set)
    if options.checkpoint is not None:
        changes |= {"checkpoint": str(options.checkpoint.resolve()), "package": None}
    if options.precision is not None:
        # What follows from the weights follows from the new ones.
        follow = {"weights": options.precision}
        follow |= dict.fromkeys(("head", "activations", "kv_cache"))
        changes["target"] = follow | changes.get("target", {})
    if options.licence:
        licence, _, reason = options.licence.partition(":")
        override = {"licence": licence.strip(), "reason": reason.strip()}
        changes["licence"] = {**changes.get("licence", {}), "override": override}
    if options.recipe is not None:
        return load_recipe(Path(options.recipe), changes)
    if options.checkpoint is None:
        raise RecipeError("name a recipe or a checkpoint")
    called = options.checkpoint.resolve()
    called = called.stem if called.suffix == ".gguf" else called.name
    name = re.sub(r"[^a-z0-9._-]+", "-", called.lower()).strip("-._")
    return make_recipe({"name": name or "checkpoint", **changes}, "the command line")


def changes_of(assignments: list[str]) -> dict[str, Any]:
    """Settings from words such as ``limits.context_length=4096``."""
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        *parents, name = path.split(".")
        inner = changes
        for parent in parents:
            inner = inner.setdefault(parent, {})
        if not equals or not name or not isinstance(inner, dict):
            raise RecipeError(f"{assignment!r} is not a setting; write name=value")
        try:
            inner[name] = json.loads(text)
        except ValueError:
            inner[name] = text
    return changes


def _quality_off(options: argparse.Namespace) -> str | None:
    reason: str = options.reason.strip()
    if options.quality == "on":
        return None
    if len(reason) < 10:
        raise BuildError(
            "turning the quality gate off needs a reason, which is kept in the manifest: "
            "QUALITY=off REASON='…'"
        )
    return reason


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m build", description=__doc__)
    parser.add_argument("recipe", nargs="?", help="a YAML file, or a name in build/recipes")
    parser.add_argument("--checkpoint", type=Path, help="takes the place of the recipe's")
    parser.add_argument("--precision", help="takes the place of target.weights")
    parser.add_argument(
        "--licence",
        metavar="IDENTIFIER: REASON",
        default="",
        help="takes the place of the checkpoint's licence, and says why it may",
    )
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="any other setting"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--promote", type=Path, metavar="REPOSITORY", help="serve what was built")
    parser.add_argument(
        "--keep-served", action="store_true", help="build nothing where another version is served"
    )
    parser.add_argument("--quality", choices=["on", "off"], default="on", help="the quality gate")
    parser.add_argument("--reason", default="", help="why it is off")
    parser.add_argument("--store", type=Path, default=Path("artifacts"))
    parser.add_argument("--key", type=Path, default=Path(".keys/signing.pem"))
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument(
        "--modelopt",
        type=Path,
        metavar="PYTHON",
        default=Path(".venv-modelopt/bin/python"),
        help="the Python that has NVIDIA ModelOpt, for recipes for TensorRT-LLM",
    )
    return parser


def _summary(artifact: Artifact) -> str:
    manifest, record = artifact.manifest, artifact.record
    quality = manifest.quality
    measured = "quality not measured"
    if quality.engine is not None and quality.agreement is not None:
        measured = f"perplexity {quality.engine.perplexity:.4g}, agreement {quality.agreement:.1%}"
        if quality.engine.accuracy is not None:
            measured += f", accuracy {quality.engine.accuracy:.1%}"
    return (
        f"{artifact.folder}: {manifest.name}, {manifest.architecture}, "
        f"{manifest.recipe['target']['weights']}, {artifact.size_bytes / 1e6:,.1f} MB, "
        f"{measured}; built in {record.duration_s:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
