"""The documents lead where they say, and each can be found from the index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DECISIONS = ROOT / "docs" / "decisions"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "LOG.md"]


def links(document: Path) -> Iterator[str]:
    """Yield the target of each link outside of code."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", prose)


def anchors(document: Path) -> set[str]:
    """The names that a Markdown reader gives to a document's headings."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def broken(document: Path) -> list[str]:
    found = []
    for link in links(document):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document):
    assert broken(document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_the_python_that_works(document):
    """The system's own has none of our packages."""
    text = " ".join(document.read_text().split())
    ours = "benchmarks|build|clients|ensembles|gateway|ops|python_backend"
    assert re.findall(rf"(?<![/\w.-])python3? -m (?:{ours})\b\S*", text) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "b.md").write_text("# What follows, and why\n")
    text = "[a](b.md) [b](b.md#what-follows-and-why) [c](c.md) [d](b.md#d)\n```\n[e](e.md)\n```\n"
    (tmp_path / "a.md").write_text(text)
    assert broken(tmp_path / "a.md") == ["c.md", "b.md#d"]


def test_the_index_has_every_document():
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / link).resolve() for link in links(index)}
    assert set(ROOT.glob("docs/**/*.md")) - named == {index}


def test_decisions_are_numbered_and_short():
    records = sorted(DECISIONS.glob("*.md"))
    assert [int(path.name[:4]) for path in records] == [*range(1, len(records) + 1)]
    for number, path in enumerate(records, 1):
        lines = path.read_text().splitlines()
        assert lines[0].startswith(f"# {number}. ")
        assert len(lines) <= 50
