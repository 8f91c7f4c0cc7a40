"""What a repository serves goes by its recipe's name, and says when it was made."""

from __future__ import annotations

import json
from pathlib import Path

from ops.served_model import ServedModel


def promoted(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_the_newest_engine_is_told_of(tmp_path: Path) -> None:
    model = tmp_path / "tensorrt_llm"
    promoted(model / "1", build={"created_at": "1970-01-01T00:00:00+00:00"})  # no engine any more
    promoted(
        model / "12",
        manifest={"name": "mine", "recipe": {"question": "Who?"}},
        build={"created_at": "1970-01-02T00:00:00+00:00"},
        engine={"context_length": 2048},
    )
    served = ServedModel.of(tmp_path)
    assert served == ServedModel("mine", 86_400, 2048, "Who?")
    assert served.gateway_arguments() == [
        "--model=mine",
        "--created=86400",
        "--context-length=2048",
    ]


def test_an_engine_without_a_manifest_goes_by_the_default(tmp_path: Path) -> None:
    promoted(tmp_path / "tensorrt_llm" / "1", engine={})
    assert ServedModel.of(tmp_path) == ServedModel("demo")
    assert ServedModel.of(tmp_path / "none").gateway_arguments() == ["--model=demo"]


def test_of_two_versions_the_one_is_told_of_that_is_served(tmp_path: Path) -> None:
    for number, name in (("1", "before"), ("2", "after")):
        promoted(tmp_path / "tensorrt_llm" / number, engine={}, manifest={"name": name})
    assert ServedModel.of(tmp_path).name == "after"
    assert ServedModel.of(tmp_path, "1").name == "before"
    file = tmp_path / "new" / "served.json"
    ServedModel.of(tmp_path, "1").write(file)
    assert json.loads(file.read_text())["name"] == "before"
