from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit.audit_segments import segments, writers
from gateway.audit.audit_settings import AuditSettings
from gateway.audit.chain import START, Link, read
from gateway.audit.keys import AuditKey, AuditKeys
from gateway.audit.log import FileAuditLog, key_path
from gateway.audit.verification import heads, verify
from tests.examples import examples
from tests.gateway.audit.conftest import lines, serve


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A log of one chain of several segments."""
    options = AuditSettings(
        directory=tmp_path_factory.mktemp("log") / "audit", segment_bytes=4096, reserve_bytes=4096
    )

    async def write() -> None:
        log = FileAuditLog.open(options)
        for number in range(24):
            await serve(log, f"r{number}")
        await log.close()

    asyncio.run(write())
    return options


@pytest.fixture
def log(made, tmp_path):
    """A copy of it, to be tampered with."""
    shutil.copytree(made.directory, tmp_path / "audit")
    shutil.copy(key_path(made), tmp_path / "audit.key")
    return AuditSettings(directory=tmp_path / "audit")


def problems(options: AuditSettings, anchors: dict[str, Link] | None = None) -> list[str]:
    keys = AuditKeys.load(key_path(options))
    return [each for report in verify(options.directory, keys, anchors) for each in report.problems]


def only(options: AuditSettings) -> list[Path]:
    [folder] = writers(options.directory)
    return [segment.path for segment in segments(folder)]


def test_what_was_not_touched_is_whole(log):
    assert problems(log, heads(log.directory)) == []
    assert len(only(log)) > 3


def test_a_report_says_what_there_is(log):
    found = list(lines(log.directory))
    [report] = verify(log.directory, AuditKeys.load(key_path(log)))
    [(writer, head)] = heads(log.directory).items()
    assert (report.writer, report.first, report.last) == (writer, START, head)
    assert head == Link(found[-1]["n"], found[-1]["mac"])
    assert report.lines == len(found) == head.sequence + 1
    assert report.events == Counter(line["event"] for line in found)
    assert report.events["end"] == report.events["begin"] == 24
    assert verify(log.directory / "none", AuditKeys.load(key_path(log))) == []


def test_every_chain_has_a_report(log):
    async def write() -> None:
        first, second = FileAuditLog.open(log), FileAuditLog.open(log)
        await serve(second, "r")
        await first.close()
        await second.close()

    asyncio.run(write())
    keys = AuditKeys.load(key_path(log))
    anchors = heads(log.directory)
    reports = verify(log.directory, keys, anchors)
    assert [(each.writer, each.last) for each in reports] == sorted(anchors.items())
    assert [each.problems for each in reports] == [[], []]
    first, second = sorted(anchors)
    ahead = {**anchors, second: Link(anchors[second].sequence + 1, ""), "another": START}
    found = {each.writer: each.problems for each in verify(log.directory, keys, ahead)}
    assert found.pop(first) == []
    assert [len(each) for each in found.values()] == [1, 1]


@given(st.data())
@settings(max_examples=examples(150))
def test_no_byte_can_be_changed(made, data):
    paths = only(made)
    path = data.draw(st.sampled_from(paths))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda each: each != whole[place]))
    try:
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        found = problems(made, heads_of(paths, whole, path))
        assert found
        assert all(str(made.directory) in each for each in found)
    finally:
        path.write_bytes(whole)


def heads_of(paths: list[Path], whole: bytes, path: Path) -> dict[str, Link]:
    """The chain's true end, which an end that was cut off doesn't reach."""
    last = (whole if path == paths[-1] else paths[-1].read_bytes()).splitlines(keepends=True)[-1]
    return {path.parent.name: read(last)[1]}


@pytest.mark.parametrize("where", [0, 2, 5])
def test_no_line_can_be_taken_out_doubled_or_moved(log, where):
    path = only(log)[1]
    whole = path.read_bytes().splitlines(keepends=True)
    for changed in (
        whole[:where] + whole[where + 1 :],
        whole[: where + 1] + whole[where:],
        [*whole[:where], whole[where + 1], whole[where], *whole[where + 2 :]],
    ):
        path.write_bytes(b"".join(changed))
        assert problems(log)
    path.write_bytes(b"".join(whole))
    assert problems(log) == []


def test_one_change_is_told_as_one(log):
    path = only(log)[1]
    path.write_bytes(path.read_bytes().replace(b'"status":200', b'"status":500', 1))
    [problem] = problems(log)
    number = 1 + [b'"status":500' in line for line in path.read_bytes().splitlines()].index(True)
    assert problem == f"{path}:{number} was changed, or the line before it was"


def test_a_line_that_is_none_is_told_and_what_follows_it_verifies(log):
    path = only(log)[1]
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*whole[:2], b"garbage\n", *whole[3:]]))
    assert problems(log) == [
        f"{path}:3 is not a sealed line",
        f"{path}:4 was changed, or the line before it was",
    ]


def test_a_segment_whose_first_line_is_none_is_told_once(log):
    paths = only(log)
    whole = paths[1].read_bytes().splitlines(keepends=True)
    paths[1].write_bytes(b"".join([b"garbage\n", *whole[1:]]))
    found = problems(log)
    assert found[0] == f"{paths[1]}:1 is not a sealed line"
    assert all(each.startswith(f"{paths[2]}:1 is number") for each in found[1:])
    assert len(found) == 2


def test_without_the_key_nothing_can_be_forged(log, tmp_path):
    first = only(log)[0]
    forged = tmp_path / "forged"

    async def forge() -> None:
        written = FileAuditLog.open(AuditSettings(directory=forged, key_file=tmp_path / "other"))
        await serve(written, "nobody")
        await written.close()

    asyncio.run(forge())
    [made] = only(AuditSettings(directory=forged))
    for path in only(log)[1:]:
        path.unlink()
    first.write_bytes(made.read_bytes())
    assert problems(log) == [f"{first}:1 was written with a key that is not there"]


def test_a_segment_that_is_gone_is_missed(log):
    paths = only(log)
    paths[1].unlink()
    assert problems(log) == [f"{paths[0].parent}: segment 1 is gone"]  # and no other is wrong
    paths[3].unlink()
    assert [problem.rpartition(": ")[2] for problem in problems(log)] == [
        "segment 1 is gone",
        "segment 3 is gone",
    ]
    paths[0].unlink()
    assert problems(log)[0] == f"{paths[0].parent}: segments 0 to 1 are gone"


def test_an_end_that_was_cut_off_shows_where_it_was_noted(log):
    anchors = heads(log.directory)
    last = only(log)[-1]
    whole = last.read_bytes().splitlines(keepends=True)
    last.write_bytes(b"".join(whole[:-1]))
    assert problems(log) == []
    [problem] = problems(log, anchors)
    end = next(iter(anchors.values())).sequence
    assert problem == f"{last.parent}: ends with line {end - 1}, and line {end} was there"
    for path in only(log):
        path.unlink()
    assert problems(log, anchors) == [f"{last.parent} is gone"]


def test_a_chain_that_was_written_anew_shows_where_it_was_noted(log):
    [writer] = heads(log.directory)
    [problem] = problems(log, {writer: Link(3, "0" * 64)})
    assert "is not the line that was there before" in problem


def test_a_digest_finds_a_prompt(log):
    key = AuditKeys.load(key_path(log)).current
    end = next(line for line in lines(log.directory) if line["event"] == "end")
    assert key.digest("acme", b"the quick brown fox is my password") == end["prompt_digest"]
    assert AuditKey(b"x" * 32).digest("acme", b"a") != AuditKey(b"y" * 32).digest("acme", b"a")
