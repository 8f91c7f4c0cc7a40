"""One line that says what to do, for each thing that a machine can lack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ops import preflight
from ops.preflight import (
    PreflightError,
    check_path,
    check_platform,
    check_python,
    external_tritonserver,
    find_libpython,
)


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12)])
def test_a_supported_python_passes(version):
    check_python(*version)


@pytest.mark.parametrize("version", [(2, 7), (3, 9), (3, 13), (4, 0)])
def test_another_python_is_refused(version):
    with pytest.raises(PreflightError, match=r"make PYTHON=python3\.12"):
        check_python(*version)


@pytest.mark.parametrize("glibc", ["2.35", "2.36", "2.41", "3.0"])
def test_a_recent_linux_passes(glibc):
    check_platform("linux", "x86_64", glibc)


@pytest.mark.parametrize(
    ("system", "machine", "glibc", "words"),
    [
        ("darwin", "arm64", "", "darwin on arm64"),
        ("linux", "aarch64", "2.36", "linux on aarch64"),
        ("linux", "x86_64", "2.31", "needs glibc 2.35"),
        ("linux", "x86_64", "", "another C library"),
    ],
)
def test_another_machine_is_refused(system, machine, glibc, words):
    with pytest.raises(PreflightError, match=words) as raised:
        check_platform(system, machine, glibc)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", ["/srv/two words", "/srv/R&D", "/srv/$HOME"])
def test_a_folder_that_triton_cannot_run_in_is_refused(path):
    with pytest.raises(PreflightError, match="takes no path with spaces"):
        check_path(Path(path))


def test_this_pythons_library_is_found():
    assert find_libpython().name == f"libpython3.{sys.version_info[1]}.so.1.0"


def test_a_missing_library_names_its_package(monkeypatch):
    monkeypatch.setattr(preflight, "_python_version", lambda: "3.99")
    with pytest.raises(PreflightError, match=r"apt-get install libpython3\.99"):
        find_libpython()


def test_the_tritonserver_of_the_system_is_found_behind_our_wrapper(monkeypatch, tmp_path):
    ours = program(tmp_path / "ours", f"#!/bin/sh\n{preflight.WRAPPER_MARK}\n")
    theirs = program(tmp_path / "theirs", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", f"{ours.parent}:{tmp_path / 'missing'}::{theirs.parent}")
    assert external_tritonserver() == str(theirs)


def test_our_wrapper_is_not_the_systems(monkeypatch, tmp_path):
    ours = program(tmp_path, f"#!/bin/sh\n{preflight.WRAPPER_MARK}\n")
    monkeypatch.setenv("PATH", str(ours.parent))
    assert external_tritonserver() is None


def test_it_runs_as_a_script():
    done = subprocess.run([sys.executable, preflight.__file__], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def program(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tritonserver"
    path.write_text(text)
    path.chmod(0o755)
    return path
