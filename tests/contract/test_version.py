"""The version is spelt once, and all that tell it take it from there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import clients
from contract.version import VERSION

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert clients.__version__ == VERSION


@pytest.mark.parametrize("program", ["clients", "gateway"])
def test_programs_tell_it(program):
    command = [sys.executable, "-m", program, "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"Trireme {VERSION}\n"


def test_the_changelog_knows_it():
    text = (ROOT / "CHANGELOG.md").read_text()
    first = re.findall(r"^## \[(.+?)\]", text, flags=re.MULTILINE)[0]
    unreleased = text.partition("## [Unreleased]")[2].partition("\n## ")[0]
    assert first == VERSION or f"What will be {VERSION}." in unreleased
