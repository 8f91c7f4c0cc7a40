"""The locks: all of it is in them, and nothing can be put in a package's place."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ops import install_torch
from ops.install_torch import REQUIREMENTS
from ops.locks import ENVIRONMENTS, ROOT, Environment

TOGETHER = ("serving", "gateway", "dev", "build")
"""Their locks go into one environment."""

VERSIONS = ("3.10.14", "3.11.9", "3.12.7")


def entries(path: Path) -> list[tuple[Requirement, list[str]]]:
    """The requirements of a file, each with its digests."""
    joined = path.read_text().replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        words = re.split(r"\s+--hash=", line.partition(" #")[0].strip())
        if words[0] and not words[0].startswith(("#", "-")):
            found.append((Requirement(words[0]), words[1:]))
    return found


def pins(environment: Environment, python: str) -> dict[str, str]:
    """The version of each package that a Python on Linux gets."""
    machine = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    found: dict[str, str] = {}
    for requirement, _ in entries(ROOT / environment.lock):
        if requirement.marker is None or requirement.marker.evaluate(machine):
            assert requirement.name not in found, requirement
            found[requirement.name] = str(requirement.specifier).removeprefix("==")
    return found


def asked(environment: Environment) -> list[Requirement]:
    return [requirement for requirement, _ in entries(ROOT / environment.source)]


def test_every_file_is_an_environments():
    folders = {environment.source.parent for environment in ENVIRONMENTS}
    files = {path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).iterdir()}
    known = {Path("requirements/torch-cpu.txt")} | {each.lock for each in ENVIRONMENTS}
    for environment in ENVIRONMENTS:
        known |= {environment.source, *environment.excludes, *environment.overrides}
    assert files == known


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda each: each.name)
class TestLock:
    def test_every_package_has_one_version_and_digests(self, environment):
        for requirement, digests in entries(ROOT / environment.lock):
            assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement
            assert digests, requirement
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests)

    @pytest.mark.parametrize("python", VERSIONS)
    def test_what_is_asked_for_is_there(self, environment, python):
        if tuple(map(int, python.split("."))) < tuple(map(int, environment.python.split("."))):
            return
        pinned = pins(environment, python)
        excluded = {each.name for path in environment.excludes for each, _ in entries(ROOT / path)}
        for requirement in asked(environment):
            assert requirement.specifier.contains(pinned[requirement.name]), requirement
        assert not excluded & set(pinned)

    def test_no_host_is_named(self, environment):
        text = (ROOT / environment.lock).read_text()
        assert "://" not in text
        assert "index-url" not in text


@pytest.mark.parametrize("python", VERSIONS)
def test_locks_of_one_environment_agree(python):
    together = [each for each in ENVIRONMENTS if each.name in TOGETHER]
    everything: dict[str, str] = {}
    for environment in together:
        for name, version in pins(environment, python).items():
            assert everything.setdefault(name, version) == version, name


def test_pip_refuses_another_file(tmp_path):
    (tmp_path / "a-1-py3-none-any.whl").write_bytes(b"not what was locked")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"a==1 --hash=sha256:{'0' * 64}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-index", "--find-links", str(tmp_path)]
    pip += ["--require-hashes", "--no-deps", "--dest", str(tmp_path / "out"), "-r", str(lock)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "DO NOT MATCH THE HASHES" in done.stderr


@pytest.mark.parametrize(("found", "lock"), [(True, "torch-cpu.txt"), (False, "torch.txt")])
def test_torch_without_cuda_is_taken_where_there_is_one(tmp_path, monkeypatch, found, lock):
    # A pip that finds the wheel without CUDA, or doesn't, and says what it was asked to install.
    log = tmp_path / "log"
    pip = tmp_path / "pip.sh"
    refuse = "" if found else 'case "$*" in *torch-cpu.txt) exit 1;; esac'
    pip.write_text(f'#!/bin/sh\necho "$@" >> {log}\n{refuse}\n')
    pip.chmod(0o755)
    monkeypatch.setattr(install_torch, "PIP", (str(pip),))
    assert install_torch.main() == 0
    last = log.read_text().splitlines()[-1]
    assert last.endswith(
        f"--require-hashes --only-binary :all: --requirement {REQUIREMENTS / lock}"
    )


def test_both_wheels_of_torch_are_of_one_version():
    (alone, digests), *others = entries(REQUIREMENTS / "torch-cpu.txt")
    assert not others
    assert digests
    assert str(alone) == "torch==2.13.0+cpu"
    for environment in ENVIRONMENTS:
        for requirement, _ in entries(ROOT / environment.lock):
            if requirement.name == "torch":
                assert f"{requirement}+cpu" == str(alone)
