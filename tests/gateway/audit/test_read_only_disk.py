"""A file system that the kernel makes read-only under the log, for real: ext4 after an error."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_settings import AuditSettings
from gateway.audit.log import FileAuditLog
from gateway.gateway_errors import AuditUnavailable
from tests.gateway.audit.conftest import begun, events, record, serve

pytestmark = pytest.mark.anyio


@dataclass
class FileSystem:
    """One in a file, on a loop device."""

    image: Path
    path: Path

    def mount(self) -> None:
        options = "loop,errors=remount-ro"
        subprocess.run(["mount", "-o", options, self.image, self.path], check=True)

    def fail(self) -> None:
        """Have the kernel find an error: nobody writes to it any more, open files included."""
        found = subprocess.run(
            ["findmnt", "-no", "SOURCE", self.path], capture_output=True, text=True, check=True
        )
        device = Path(found.stdout.strip()).name
        Path("/sys/fs/ext4", device, "trigger_fs_error").write_text("a test")

    def mend(self) -> None:
        """Check it and mount it again, as somebody does who found it read-only."""
        subprocess.run(["umount", self.path], check=True)
        subprocess.run(["e2fsck", "-fy", self.image], capture_output=True, check=False)
        self.mount()


@pytest.fixture
def disk(tmp_path) -> Iterator[FileSystem]:
    made = FileSystem(tmp_path / "image", tmp_path / "disk")
    made.path.mkdir()
    with made.image.open("wb") as file:
        file.truncate(8 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", made.image], capture_output=True, check=True)
        made.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be made here: {error}")
    yield made
    subprocess.run(["umount", made.path], check=True)


@pytest.fixture
def settings(disk) -> AuditSettings:
    return AuditSettings(directory=disk.path / "audit", reserve_bytes=16 << 10)


async def test_it_stops_intake_and_what_ran_is_told_and_interrupted(
    disk, settings, verified, caplog
):
    log = FileAuditLog.open(settings)
    await serve(log, "before")
    tickets = [await begun(log, f"running-{number}") for number in range(5)]
    disk.fail()
    for number, ticket in enumerate(tickets):  # no answer is complete without its record
        with pytest.raises(AuditUnavailable):
            await log.append(record(f"running-{number}"), ticket)
    with pytest.raises(AuditUnavailable):
        log.begin("late", 1.0, record().principal, "demo")
    with pytest.raises(AuditUnavailable):
        await log.check()
    assert log.state == "unavailable"
    await log.close()
    assert "audit records are lost: [Errno 30] Read-only file system" in caplog.text
    disk.mend()
    log = FileAuditLog.open(settings)
    await serve(log, "after")
    await log.close()
    [report] = verified()
    assert report.problems == []
    assert events(settings.directory).count("interrupted") == 5
    assert (report.events["begin"], report.events["end"]) == (7, 2)


async def test_where_it_may_serve_unaudited_it_does(disk, settings):
    log = FileAuditLog.open(settings.model_copy(update={"when_unavailable": "serve"}))
    ticket = await begun(log, "running")
    disk.fail()
    await log.append(record("running"), ticket)
    await serve(log, "unaudited")
    await log.check()
    assert log.state == "unavailable"
    await log.close()


def test_at_the_start_it_is_an_error(disk, settings):
    settings.directory.mkdir()
    disk.fail()
    with pytest.raises(AuditError, match=r"Read-only file system|can't be written"):
        FileAuditLog.open(settings)
