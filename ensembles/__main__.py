"""``python -m ensembles``: assemble a model repository."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from contract.errors import TriremeError
from ensembles.engine_kinds import kind_of
from ensembles.repository import assemble, missing_engine
from ensembles.repository_settings import RepositorySettings


def main() -> int:
    """Assemble the repository that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m ensembles", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting, such as max_batch_size=8 or safety.policy_file=mine.yaml",
    )
    parser.add_argument("--brief", action="store_true", help="don't tell how to serve it")
    arguments = parser.parse_args()
    try:
        settings = RepositorySettings.from_assignments(arguments.set)
        names = assemble(arguments.repository, settings)
    except (TriremeError, OSError) as error:
        print(f"ensembles: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.repository}: {', '.join(names)}")
    advice = missing_engine(arguments.repository, settings)
    if advice:
        print(f"no engine yet: {advice}")
    if not arguments.brief:
        print(kind_of(settings).how_to_serve(arguments.repository.resolve(), settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
