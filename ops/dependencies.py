"""``python -m ops.dependencies``: look the lock files up in known vulnerabilities, by pip-audit.

pip-audit says «no known vulnerabilities» of what its advisory service didn't know or didn't answer,
too. Here that is told apart: a known vulnerability fails, and what was not checked is named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Report:
    """What is known of one lock file.

    Attributes:
        checked: How many packages were looked up.
        vulnerable: A line for each known vulnerability.
        unchecked: A line for each package, or one for all, that could not be looked up.
    """

    checked: int
    vulnerable: tuple[str, ...]
    unchecked: tuple[str, ...]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read pip-audit's ``--format json``.

        Raises:
            ValueError: It is something else.
        """
        packages: list[dict[str, Any]] = json.loads(text)["dependencies"]
        skipped = tuple(each["skip_reason"] for each in packages if "skip_reason" in each)
        vulnerable = tuple(
            f"{package['name']} {package['version']}: {found['id']}"
            f" ({', '.join(found['aliases']) or 'no alias'}), mended in "
            f"{', '.join(found['fix_versions']) or 'no version'}"
            for package in packages
            for found in package.get("vulns", ())
        )
        return cls(len(packages) - len(skipped), vulnerable, skipped)


def audit(lock: Path, arguments: Sequence[str] = ()) -> Report:
    """Look up what a lock file pins; nothing is installed and nothing resolved.

    Args:
        lock: A requirements file.
        arguments: Further arguments of pip-audit.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--format", "json"]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return Report.from_json(done.stdout)
    except (ValueError, LookupError):
        reason = (done.stderr.strip() or "pip-audit said nothing").splitlines()[-1]
        return Report(0, (), (textwrap.shorten(reason, 120),))


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit the lock files; 1 where a vulnerability is known, or with --strict, may be."""
    parser = argparse.ArgumentParser(prog="python -m ops.dependencies", description=__doc__)
    parser.add_argument("locks", nargs="*", type=Path, help="by default all in requirements/")
    parser.add_argument("--strict", action="store_true", help="what wasn't checked fails, too")
    parser.add_argument("--osv-url", help="another advisory service that speaks OSV's API")
    options = parser.parse_args(arguments)
    more = ["--vulnerability-service", "osv", "--timeout", "10"]
    if options.osv_url:
        more += ["--osv-url", options.osv_url]
    failed = False
    for lock in options.locks or sorted(ROOT.glob("requirements/*.txt")):
        report = audit(lock, more)
        if report.checked:
            count = len(report.vulnerable)
            plural = "vulnerability" if count == 1 else "vulnerabilities"
            print(f"{lock.name}: {report.checked} checked, {count} known {plural}")
        for line in report.vulnerable:
            print(f"{lock.name}: VULNERABLE {line}")
        for line in report.unchecked:
            print(f"{lock.name}: NOT CHECKED: {line}")
        failed = failed or bool(report.vulnerable or (options.strict and report.unchecked))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
