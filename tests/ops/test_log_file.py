"""A log is appended to, and put aside when it is long, whoever has it open."""

from __future__ import annotations

from pathlib import Path

from ops.log_file import KEPT, aside, rotate, since


def test_a_short_log_stays(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert not rotate(log, 3)
    log.write_text("abc")
    assert not rotate(log, 3)
    assert log.read_text() == "abc"


def test_a_long_one_is_put_aside_under_a_process_that_writes_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        for number in range(KEPT + 2):
            writer.write(f"run {number}".encode())
            assert rotate(log, 3)
        writer.write(b"now")
    assert log.read_bytes() == b"now"
    assert [aside(log, number).read_text() for number in (1, 2, KEPT)] == [
        f"run {KEPT + 1}",
        f"run {KEPT}",
        "run 2",
    ]
    assert not aside(log, KEPT + 1).exists()


def test_what_was_written_since_a_place_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before after")
    assert since(log, 7) == "after"
    assert since(log, 100) == "before after"
