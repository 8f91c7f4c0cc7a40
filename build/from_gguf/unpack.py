"""A GGUF file beside the files that a Hugging Face checkpoint has: what builds start from.

Settings, tokenizer and template are written out; the weights stay in the file, which is linked.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from build.checkpoint import GGUF_FILE
from build.from_gguf.gguf_families import config_of, family_of
from build.from_gguf.gguf_reader import MAGIC, GGUFFile, open_gguf
from build.from_gguf.gguf_tokenizer import tokenizer_files


def is_gguf(path: Path) -> bool:
    """Whether a file is, or says it is, in this format."""
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def unpack(path: Path, folder: Path) -> None:
    """Make a checkpoint folder of a GGUF file.

    Args:
        path: The file; the folder holds a link to it.
        folder: A new folder.

    Raises:
        CheckpointError: The file can't be read, or is of a kind that is not built.
    """
    file = open_gguf(path)
    _, family = family_of(file)
    config = config_of(file)
    ends = _ends(file)
    contents: dict[str, Any] = {
        "config.json": config | ends,
        "generation_config.json": ends,
        **tokenizer_files(file),
    }
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
    stated = file.get("general.license", str, None)
    card = "" if stated is None else f"---\n{yaml.safe_dump({'license': stated})}---\n"
    name = file.get("general.name", str, None) or path.stem
    (folder / "README.md").write_text(f"{card}{name}, {family.architecture}, from {path.name}.\n")
    try:
        os.link(path, folder / GGUF_FILE)
    except OSError:  # another file system, or somebody else's file
        (folder / GGUF_FILE).symlink_to(path.resolve())


def _ends(file: GGUFFile) -> dict[str, Any]:
    """Which tokens begin and end a text."""
    ids = {
        "bos_token_id": file.get("tokenizer.ggml.bos_token_id", int, None),
        "eos_token_id": _eos(file),
    }
    return {name: value for name, value in ids.items() if value is not None}


def _eos(file: GGUFFile) -> int | list[int] | None:
    """The end of a text, and that of a turn where there is another."""
    names = ("eos", "eot", "eom")
    found = [file.get(f"tokenizer.ggml.{name}_token_id", int, None) for name in names]
    ends = list(dict.fromkeys(each for each in found if each is not None))
    return ends[0] if len(ends) == 1 else ends or None
