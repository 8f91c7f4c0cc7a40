"""The sanitizers: what they are given, and that a machine that lacks them says so."""

from __future__ import annotations

import ast
import threading
from pathlib import Path

import pytest

from ops.sanitize import KERNEL_CFLAGS, ROOT, SANITIZERS, TESTS, SanitizeError, environment, main


@pytest.mark.parametrize("name", SANITIZERS)
def test_its_library_comes_first_and_its_flags_reach_the_kernels(name, tmp_path):
    variables = environment(SANITIZERS[name], tmp_path)
    libraries = variables["LD_PRELOAD"].split(":")
    assert [Path(each).name for each in libraries] == list(SANITIZERS[name].libraries)
    assert all(Path(each).is_file() for each in libraries)
    assert variables[KERNEL_CFLAGS] == SANITIZERS[name].flags
    assert variables["XDG_CACHE_HOME"] == str(tmp_path)


def test_a_machine_without_gcc_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SanitizeError, match="need gcc"):
        environment(SANITIZERS["thread"], tmp_path)


def test_a_gcc_without_the_library_is_told_so(tmp_path, monkeypatch):
    gcc = tmp_path / "gcc"
    gcc.write_text("#!/bin/sh\necho libtsan.so\n")
    gcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SanitizeError, match=r"gcc has no libtsan\.so"):
        environment(SANITIZERS["thread"], tmp_path)


def test_all_run_side_by_side_and_one_that_finds_something_fails(monkeypatch, capsys):
    together = threading.Barrier(len(SANITIZERS), timeout=30)

    def run(name, arguments):
        assert arguments == ["-x"]
        together.wait()
        return (66 if name == "thread" else 0), f"what {name} says"

    monkeypatch.setattr("ops.sanitize.sanitize", run)
    assert main(["-x"]) == 1
    out, err = capsys.readouterr()
    assert all(f"sanitizer: {name}\nwhat {name} says" in out for name in SANITIZERS)
    assert err == "sanitizer thread: FAILED\n"


def test_a_machine_that_cannot_says_why(monkeypatch, capsys):
    def refuse(name, arguments):
        raise SanitizeError("the sanitizers need gcc")

    monkeypatch.setattr("ops.sanitize.sanitize", refuse)
    assert main([]) == 2
    assert capsys.readouterr().err == "the sanitizers need gcc\n"


def test_the_variable_is_the_kernels_own():
    # Not imported: starting and supervising know nothing of the engine.
    source = (ROOT / "python_backend/engine/kernels/__init__.py").read_text()
    assigned = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    values = {ast.unparse(node.targets[0]): node.value for node in assigned}
    assert ast.literal_eval(values["KERNEL_CFLAGS"]) == KERNEL_CFLAGS


def test_the_tests_are_there():
    files = [each.removeprefix("--deselect=").partition("::")[0] for each in TESTS]
    assert all((ROOT / each).is_file() for each in files)
