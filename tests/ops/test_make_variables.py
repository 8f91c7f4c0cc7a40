"""A variable that `make` would ignore is an error that names the nearest."""

from __future__ import annotations

import subprocess

import pytest

from ops.make_variables import complaint, known_variables
from ops.triton_process import ROOT


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("RECEIPE", "RECIPE"), ("recipe", "RECIPE"), ("CHECKPONT", "CHECKPOINT"), ("X", "")],
)
def test_a_misspelt_variable_is_refused(name: str, nearest: str) -> None:
    done = make("help", f"{name}=mine")
    assert done.returncode == 2
    assert f"error: {name} is not a variable; the nearest is {nearest}" in done.stderr


def test_what_make_help_lists_is_taken() -> None:
    known = known_variables()
    assert {"RECIPE", "PORT", "ARGS"} <= set(known)
    done = make("help", *(f"{name}=1" for name in known))
    assert done.returncode == 0, done.stderr


def test_the_nearest_is_named() -> None:
    assert "the nearest is PORT (" in complaint("PROT", ["HOST", "PORT"])
