"""What tests of whole builds share: a checkpoint that can be built and measured, and a workshop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from build.artifacts.artifact_store import Artifact, Store
from build.artifacts.manifest import DigestCache
from build.artifacts.signing import signing_key
from build.pipeline import Workshop, build
from build.plan import Plan, make_plan
from build.progress import silent
from build.recipe import make_recipe
from tests.build.checkpoints import make_checkpoint

DEMO = Path(__file__).parents[2] / "build" / "demo" / "checkpoint"


def make_model(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    """A tiny random checkpoint with the demo's tokenizer and a licence."""
    settings = {"vocab_size": 2048, "max_position_embeddings": 512, "eos_token_id": 4, **changes}
    make_checkpoint(folder, kind, **settings)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return folder


def make_plan_of(checkpoint: Path, cache: Path, **settings: Any) -> Plan:
    """The plan of a recipe; a random model agrees with itself less than a trained one."""
    recipe = {
        "name": "tiny",
        "checkpoint": str(checkpoint),
        "quality": {"bounds": {"max_perplexity_increase": 1, "min_agreement": 0.3}},
        **settings,
    }
    return make_plan(make_recipe(recipe, "the test"), DigestCache(cache / "digests.json"))


def make_workshop(folder: Path) -> Workshop:
    """A workshop with a store, a key and a cache of its own, which says nothing."""
    return Workshop(
        store=Store(folder / "artifacts"),
        key=signing_key(folder / "keys" / "signing.pem"),
        cache=folder / "cache",
        modelopt=Path("no ModelOpt"),
        progress=silent,
        say=lambda text: None,
    )


def build_version(folder: Path, checkpoint: Path, **settings: Any) -> Artifact:
    """A version that is signed and, to be quick, not measured."""
    workshop = make_workshop(folder)
    plan = make_plan_of(checkpoint, folder / "cache", **settings)
    return build(plan, workshop, quality_off="a test that needs no figures")
