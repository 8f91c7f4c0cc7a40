"""A finished folder takes its destination's place, and an unfinished one never does."""

from __future__ import annotations

from pathlib import Path

import pytest

from build import publish
from build.build_errors import BuildError
from build.publish import staged

OWN = ("graph*", "weights", "settings")


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["exchange", "move"])
def _way(request, monkeypatch):
    """Run a test with the file system's exchange of folders, and without."""
    if request.param == "move":
        monkeypatch.setattr(publish, "_exchange", no_exchange)


def no_exchange(one, other):
    raise OSError("Invalid cross-device link")


@pytest.mark.usefixtures("_way")
def test_the_new_folder_replaces_the_former(tmp_path):
    destination = tmp_path / "model" / "1"
    with staged(destination, OWN, last="settings") as folder:
        write(folder, graph="a", weights="a", settings="a")
    write(destination, **{"model.py": "serve()"})
    with staged(destination, OWN, last="settings") as folder:
        write(folder, graph="b", settings="b")
        assert read(destination)["graph"] == "a"
    assert read(destination) == {"graph": "b", "settings": "b", "model.py": "serve()"}
    assert names(destination.parent) == ["1"]


@pytest.mark.usefixtures("_way")
def test_files_of_others_stay_as_they_are(tmp_path):
    destination = tmp_path / "1"
    write(destination, **{"start.sh": "tritonserver"})
    (destination / "start.sh").chmod(0o755)
    (destination / "model.py").symlink_to("../shared/model.py")  # whether or not that is there
    (destination / "__pycache__").mkdir()
    with staged(destination, OWN, last="settings") as folder:
        write(folder, settings="a")
    assert (destination / "start.sh").stat().st_mode & 0o777 == 0o755
    assert (destination / "model.py").readlink() == Path("../shared/model.py")
    assert (destination / "settings").read_text() == "a"


@pytest.mark.usefixtures("_way")
def test_an_error_leaves_the_former_folder(tmp_path):
    destination = tmp_path / "1"
    write(destination, graph="a", settings="a")

    def build() -> None:
        with staged(destination, OWN, last="settings") as folder:
            write(folder, graph="b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    assert read(destination) == {"graph": "a", "settings": "a"}
    assert names(tmp_path) == ["1"]


def test_files_moved_one_by_one_are_never_a_mixture(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "_exchange", no_exchange)
    destination = tmp_path / "1"
    write(destination, graph="a", weights="a", settings="a")
    states = []
    replace = type(destination).replace

    def watched(file, target):
        states.append(read(destination))
        return replace(file, target)

    monkeypatch.setattr(type(destination), "replace", watched)
    with staged(destination, OWN, last="settings") as folder:
        write(folder, settings="b", graph="b", weights="b")
    assert len(states) == 3
    assert all("settings" not in state for state in states)
    assert read(destination) == {"graph": "b", "weights": "b", "settings": "b"}


def test_what_a_killed_build_left_is_removed(tmp_path):
    write(tmp_path / ".1.building", weights="half")
    with staged(tmp_path / "1", OWN, last="settings") as folder:
        assert read(folder) == {}
        write(folder, settings="a")
    assert names(tmp_path) == ["1"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    write(tmp_path / "disk" / "engine", settings="a")
    (tmp_path / "1").symlink_to(tmp_path / "disk" / "engine")
    with staged(tmp_path / "1", OWN, last="settings") as folder:
        write(folder, settings="b")
    assert (tmp_path / "1").is_symlink()
    assert read(tmp_path / "1") == {"settings": "b"}


def test_two_builds_of_one_engine_do_not_mix(tmp_path):
    with staged(tmp_path / "1", OWN, last="settings") as folder:
        write(folder, settings="a")
        with (
            pytest.raises(BuildError, match="another build is at work in"),
            staged(tmp_path / "1", OWN, last="settings"),
        ):
            pass
    assert read(tmp_path / "1") == {"settings": "a"}


def test_a_folder_that_is_no_engine_is_not_replaced(tmp_path):
    write(tmp_path / "home" / "photos")
    (tmp_path / "file").write_text("")
    for name, message in (("home", "holds the folder photos"), ("file", "is not a folder")):
        with (
            pytest.raises(BuildError, match=message),
            staged(tmp_path / name, OWN, last="settings"),
        ):
            pass
    assert names(tmp_path) == ["file", "home"]
