"""The licence is found, held against the policy, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from build.build_errors import LicenceError
from build.licence import LicencePolicy, Override, audit

ROOT = Path(__file__).parents[2]
MIT = "Permission is hereby granted, free of charge, …\nTHE SOFTWARE IS PROVIDED “AS IS”"
LLAMA = "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: July 23, 2024"


def card(folder: Path, front_matter: str) -> None:
    (folder / "README.md").write_text(f"---\n{front_matter}\n---\n# A model\n")


@pytest.mark.parametrize(
    ("front_matter", "licence"),
    [
        ("license: apache-2.0", "Apache-2.0"),
        ("license: MIT", "MIT"),
        ("license: [bsd-3-clause]", "BSD-3-Clause"),
        ("license: llama3.1", "LicenseRef-llama3.1"),
        ("license: other\nlicense_name: qwen", "LicenseRef-qwen"),
        ("license: cc-by-nc-4.0", "CC-BY-NC-4.0"),
    ],
)
def test_a_card_names_the_licence(tmp_path, front_matter, licence):
    card(tmp_path, front_matter)
    found = audit(tmp_path, LicencePolicy(allow=("*",)))
    assert (found.licence, found.decision) == (licence, "policy")
    assert found.sources == {"README.md": licence}


@pytest.mark.parametrize(
    ("file", "text", "licence"),
    [
        ("LICENSE", (ROOT / "LICENSE").read_text(), "Apache-2.0"),
        ("LICENSE.txt", MIT, "MIT"),
        ("LICENSE", LLAMA, "LicenseRef-llama3.1"),
    ],
)
def test_a_licence_file_is_recognised(tmp_path, file, text, licence):
    (tmp_path / file).write_text(text)
    assert audit(tmp_path, LicencePolicy(allow=("*",))).sources == {file: licence}


def test_card_and_file_agree(tmp_path):
    card(tmp_path, "license: mit")
    (tmp_path / "LICENSE").write_text(MIT)
    assert audit(tmp_path, LicencePolicy()).sources == {"README.md": "MIT", "LICENSE": "MIT"}


def nothing(folder: Path) -> None:
    pass


def unnamed(folder: Path) -> None:
    card(folder, "license: other")


def unrecognised(folder: Path) -> None:
    (folder / "LICENSE").write_text("You may look at it.")


def no_front_matter(folder: Path) -> None:
    (folder / "README.md").write_text("# A model\nlicense: mit\n")


def contradiction(folder: Path) -> None:
    card(folder, "license: mit")
    (folder / "LICENSE").write_text(LLAMA)


def not_allowed(folder: Path) -> None:
    card(folder, "license: cc-by-nc-4.0")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (nothing, "is unknown;"),
        (unnamed, "is unknown (README.md was not recognised)"),
        (unrecognised, "is unknown (LICENSE was not recognised)"),
        (no_front_matter, "is unknown"),
        (contradiction, "README.md says MIT, LICENSE says LicenseRef-llama3.1"),
        (not_allowed, "is CC-BY-NC-4.0, and licence.allow has only Apache-2.0"),
    ],
)
def test_what_is_not_allowed_stops_the_build_unless_a_person_says_why(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(LicenceError) as refused:
        audit(tmp_path, LicencePolicy())
    assert message in str(refused.value)
    assert "licence.override" in str(refused.value)
    override = Override(licence="LicenseRef-contract", reason="contract 12/2026 with the authors")
    found = audit(tmp_path, LicencePolicy(override=override))
    assert found.decision == "override"
    assert found.reason == "contract 12/2026 with the authors"


def test_denied_beats_allowed(tmp_path):
    card(tmp_path, "license: llama3.1")
    policy = LicencePolicy(allow=("LicenseRef-*",), deny=("LicenseRef-llama*",))
    with pytest.raises(LicenceError, match=r"is LicenseRef-llama3.1, which licence.deny names"):
        audit(tmp_path, policy)


def test_front_matter_that_is_not_yaml(tmp_path):
    card(tmp_path, "license: [")
    with pytest.raises(LicenceError, match="is not YAML"):
        audit(tmp_path, LicencePolicy())


def test_the_demo_may_be_used():
    demo = ROOT / "build" / "demo" / "checkpoint"
    assert audit(demo, LicencePolicy()).sources == {
        "README.md": "Apache-2.0",
        "LICENSE": "Apache-2.0",
    }
