"""``python -m benchmarks.builds``: the build table of the demo model and of every architecture.

Each checkpoint is built in each precision for a CPU, through the whole pipeline with its gate, into
a store of its own. Beside the demo model they are tiny ones of random weights
(``tests/build/checkpoints.py``), which agree with themselves less than a trained model does: for
them the table says that each architecture is built, measured and served, not how good int4 is.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from build.artifacts.artifact_store import Store
from build.artifacts.manifest import DigestCache
from build.artifacts.signing import signing_key
from build.artifacts.versions_report import build_table, newest_artifacts
from build.pipeline import Workshop, build
from build.plan import make_plan
from build.progress import ProgressLine
from build.recipe import load_recipe, make_recipe
from python_backend.engine.engine_config import PRECISIONS
from tests.build.builds import make_model

KINDS = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "smollm3")
_RANDOM_BOUNDS = {"max_perplexity_increase": 1, "min_agreement": 0.2}


def main() -> None:
    """Build everything and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        progress = ProgressLine(sys.stderr)
        workshop = Workshop(
            store=Store(root / "artifacts"),
            key=signing_key(root / "key.pem"),
            cache=root / "cache",
            modelopt=Path("not needed"),
            progress=progress,
            say=lambda text: None,
        )
        digests = DigestCache(root / "cache" / "digests.json")
        models = {kind: make_model(root / kind, kind) for kind in KINDS}
        for weights in PRECISIONS["cpu"]:
            target = {"target": {"weights": weights, "activations": None, "kv_cache": None}}
            recipes = [load_recipe(Path("demo"), target)]
            for kind, checkpoint in models.items():
                values: dict[str, Any] = {"name": kind, "checkpoint": str(checkpoint), **target}
                values["quality"] = {"bounds": _RANDOM_BOUNDS}
                recipes.append(make_recipe(values, "the benchmark"))
            for done, recipe in enumerate(recipes, start=1):
                build(make_plan(recipe, digests), workshop)
                progress(f"{weights} builds", done, len(recipes))
        print(build_table(newest_artifacts(workshop.store)))


if __name__ == "__main__":
    main()
