"""The libraries in this checkout are, to the byte, what their sources make."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from python_backend.engine.kernels import kernel_libraries, kernel_release
from python_backend.engine.kernels.kernel_libraries import DIGESTS, FOLDER

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-kernels" / "bin" / "python"


@pytest.mark.kernels
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not PYTHON.is_file(), reason="needs `make .venv-kernels/.installed`")
def test_building_them_again_yields_the_same_bytes() -> None:
    command = [sys.executable, "-m", "python_backend.engine.kernels.kernel_release"]
    command += [str(PYTHON), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_their_digests_are_those_of_the_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert kernel_release.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        ("source", "digests.json"),
        ("changed", "avx2.so"),
        ("missing", "sse4.so"),
        ("unlisted", "avx9.so"),
    ],
)
def test_what_does_not_belong_together_is_named_without_a_compiler(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    harm: str,
    named: str,
) -> None:
    lib = shutil.copytree(FOLDER, tmp_path / "lib")
    for module in (kernel_libraries, kernel_release):
        monkeypatch.setattr(module, "FOLDER", lib)
        monkeypatch.setattr(module, "DIGESTS", lib / DIGESTS.name)
    assert kernel_release.main(["--check"]) == 0
    if harm == "source":
        monkeypatch.setattr(kernel_libraries, "digest_of_sources", lambda: "another")
    elif harm == "missing":
        (lib / named).unlink()
    else:
        (lib / named).write_bytes(b"another")
    assert kernel_release.main(["--check"]) == 1
    assert capsys.readouterr().err == (
        f"{lib / named} is not what the sources make: run `make kernels`\n"
    )


def test_nothing_is_built_without_a_compiler(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kernel_release.main([])
    assert "name the Python of the environment that has ziglang" in capsys.readouterr().err
