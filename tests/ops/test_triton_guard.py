"""What a client of Triton can't do to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.triton_guard import deaf_copy, restrictions

PROGRAM = b"\x7fELF\0triton_grpc_error\0GRPC: triton_grpc_error mode detected\0"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "tritonserver"
    path.write_bytes(PROGRAM)
    return path


def test_the_copy_does_not_know_the_header(program: Path, tmp_path: Path) -> None:
    copy = deaf_copy(program, tmp_path / "bin" / "tritonserver")
    assert copy == tmp_path / "bin" / "tritonserver"
    code = copy.read_bytes()
    assert b"\0triton_grpc_error\0" not in code
    assert len(code) == len(PROGRAM)
    assert [a != b for a, b in zip(code, PROGRAM, strict=True)].count(True) == 17
    assert copy.stat().st_mode & 0o111
    assert program.read_bytes() == PROGRAM
    assert list(copy.parent.iterdir()) == [copy]


def test_a_copy_that_is_right_stays_and_another_is_replaced(program: Path, tmp_path: Path) -> None:
    copy = deaf_copy(program, tmp_path / "copy")
    first = copy.stat().st_ino
    assert deaf_copy(program, copy).stat().st_ino == first
    program.write_bytes(PROGRAM + b"a newer one")
    assert deaf_copy(program, copy).read_bytes().endswith(b"a newer one")


@pytest.mark.parametrize("code", [b"\x7fELF", PROGRAM * 2])
def test_a_program_that_is_another_one_runs_as_it_is(tmp_path: Path, code: bytes) -> None:
    program = tmp_path / "tritonserver"
    program.write_bytes(code)
    assert deaf_copy(program, tmp_path / "copy") == program
    assert not (tmp_path / "copy").exists()


def test_what_is_the_operator_s_is_closed_to_clients() -> None:
    http, grpc = restrictions(None)
    assert http.startswith("--http-restricted-api=shared-memory,trace,logging:trireme-control=")
    assert http.partition("=")[2] == grpc.partition("=")[2]
    assert grpc.startswith("--grpc-restricted-protocol=")
    assert restrictions(None) != restrictions(None)  # nobody knows the token


def test_who_has_the_token_may_load_models() -> None:
    word = "model-repository,shared-memory,trace,logging:trireme-control=abc"
    assert restrictions("abc") == [
        f"--http-restricted-api={word}",
        f"--grpc-restricted-protocol={word}",
    ]
