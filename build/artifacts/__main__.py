"""``python -m build.artifacts``: list, check, promote, roll back and prune versions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from build.artifacts.artifact_store import Store
from build.artifacts.promotion import TRUSTED_KEY_FILE, Repository
from build.build_errors import BuildError
from contract.errors import ArtifactError, TriremeError
from python_backend.artifact import load_public_key, verify_artifact


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    store, repository = Store(options.store), Repository(options.repository)
    try:
        if options.command == "list":
            print(_table(store, repository))
        elif options.command == "verify":
            _verify(store, repository)
        elif options.command == "promote":
            artifact = store.get(_number(options.version, store))
            repository.promote(artifact, options.restart)
            print(f"version {artifact.version} ({artifact.manifest.name}) is promoted")
        elif options.command == "rollback":
            left, served = repository.roll_back(store, options.restart)
            print(f"rolled back from version {left} to version {served}")
        elif options.command == "prune":
            removed = prune(store, repository, options.keep)
            print("removed: " + (", ".join(map(str, removed)) or "nothing"))
        elif options.command == "report":
            from build.artifacts.versions_report import write_report  # needs matplotlib

            print(write_report(store, options.output))
    except (TriremeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def prune(store: Store, repository: Repository, keep: int) -> list[int]:
    """Delete old versions.

    Args:
        store: Where they are.
        repository: What it serves, and would serve after a roll-back, stays.
        keep: How many of the newest stay.

    Returns:
        The numbers of those that were deleted.
    """
    old = [each for each in store.versions()[:-keep] if not repository.keeps(each)]
    for version in old:
        store.remove(version)
    return old


def _number(text: str, store: Store) -> int:
    if not text.isdecimal():
        known = ", ".join(map(str, store.versions())) or "none"
        raise BuildError(f"name a version: VERSION=… (there is: {known})")
    return int(text)


def _verify(store: Store, repository: Repository) -> None:
    """Check every version; one that fails does not hide the others."""
    key = load_public_key(repository.root / TRUSTED_KEY_FILE)
    bad = 0
    for version in store.versions():
        try:
            verify_artifact(store.root / str(version), key)
            print(f"{version}: holds")
        except ArtifactError as error:
            bad += 1
            print(f"{version}: {error}")
    if bad:
        raise BuildError(f"{bad} of {len(store.versions())} versions are not as they were signed")


def _table(store: Store, repository: Repository) -> str:
    if not store.versions():
        return f"{store.root} has no versions: make build-engines"
    rows = [
        "| | version | recipe | weights | MB | perplexity | agreement | accuracy | tokens/s "
        "| built |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---|",
        *(_row(store, version, repository) for version in store.versions()),
    ]
    return "\n".join(rows)


def _row(store: Store, version: int, repository: Repository) -> str:
    try:
        artifact = store.get(version)
    except BuildError:
        return f"| damaged | {version} |" + " |" * 8
    manifest, record = artifact.manifest, artifact.record
    quality, engine = manifest.quality, manifest.quality.engine
    mark = "served" if repository.serves(artifact) else ""
    if repository.was_rolled_back(artifact):
        mark = "rolled back"
    cells = [
        mark,
        str(version),
        manifest.name,
        str(manifest.recipe["target"]["weights"]),
        f"{artifact.size_bytes / 1e6:,.1f}",
        f"{engine.perplexity:.4g}" if engine else "off",
        "" if quality.agreement is None else f"{quality.agreement:.1%}",
        "" if engine is None or engine.accuracy is None else f"{engine.accuracy:.1%}",
        "" if record.tokens_per_s is None else f"{record.tokens_per_s:,.0f}",
        record.created_at[:16],
    ]
    return "| " + " | ".join(cells) + " |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m build.artifacts", description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("artifacts"))
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all versions")
    commands.add_parser("verify", help="check signatures and digests")
    promote = commands.add_parser("promote", help="serve a version")
    promote.add_argument("version", help="its number")
    rollback = commands.add_parser("rollback", help="serve the version before")
    for command in (promote, rollback):
        command.add_argument(
            "--restart", action="store_true", help="Triton is stopped: the tokenizer may change"
        )
    pruning = commands.add_parser("prune", help="delete old versions")
    pruning.add_argument("--keep", type=_positive, default=5, help="of the newest (%(default)s)")
    report = commands.add_parser("report", help="table and picture of all versions")
    report.add_argument("--output", type=Path, default=Path("reports"))
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
