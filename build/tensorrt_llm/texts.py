"""The texts that ModelOpt measures activations on."""

from __future__ import annotations

import json
from pathlib import Path

from build.build_errors import BuildError
from build.recipe import CALIBRATION_TEXT


def read_texts(path: Path | None) -> list[str]:
    """The texts of a file: one a line, or in a ``.jsonl`` file the ``text`` of each object.

    Args:
        path: The file; None takes ``build/calibration.txt``.

    Raises:
        BuildError: It cannot be read, is empty, or a line is not an object with a text.
    """
    path = path or CALIBRATION_TEXT
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"the calibration text {path} cannot be read: {error}") from None
    if not lines:
        raise BuildError(f"the calibration text {path} is empty")
    if path.suffix != ".jsonl":
        return lines
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise BuildError(f"{path}:{number} is not a JSON object with a text")
        texts.append(text)
    return texts
