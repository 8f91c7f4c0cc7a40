"""A Hugging Face checkpoint folder, read without torch or transformers.

Opening a checkpoint reads its JSON files and the headers of its safetensors files; weights are
mapped, and read a block of rows at a time, so a checkpoint larger than memory can be streamed. Its
weights may also lie in a GGUF file, as ``build.from_gguf`` puts them there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from build.build_errors import CheckpointError
from python_backend.text.special_tokens import special_tokens, tokenizer_config

TOKENIZER_FILE = "tokenizer.json"

_CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
_SINGLE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
GGUF_FILE = "model.gguf"
_PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt")

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_BLOCK_BYTES = 16 << 20


class Checkpoint:
    """An open checkpoint: its configuration, and its tensors by name.

    Use it as a context manager; leaving it unmaps the weights.

    Attributes:
        folder: Where the checkpoint lies.
        config: The contents of ``config.json``.
        generation_config: The contents of ``generation_config.json``, empty if there is none.

    Raises:
        CheckpointError: A file is missing, damaged, or in a format that is not read.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointError(f"there is no checkpoint folder at {folder}")
        self.folder = folder
        self.config = _read_json(folder / _CONFIG_FILE)
        generation_config = folder / GENERATION_CONFIG_FILE
        self.generation_config = _read_json(generation_config) if generation_config.exists() else {}
        self._tokenizer = _read_json(folder / TOKENIZER_FILE)
        self._exit = ExitStack()
        self._slices: dict[str, Any] = {}
        try:
            if (folder / GGUF_FILE).exists():
                # It takes a tenth of a second, and hardly any checkpoint needs it.
                from build.from_gguf.gguf_families import tensors_of
                from build.from_gguf.gguf_reader import open_gguf

                self._slices.update(tensors_of(open_gguf(folder / GGUF_FILE), self.config))
                return
            for file, names in _weight_files(folder).items():
                self._map(file, names)
        except BaseException:
            self.close()
            raise

    def _map(self, file: Path, indexed: set[str]) -> None:
        try:
            tensors = self._exit.enter_context(safe_open(file, framework="numpy"))
        except FileNotFoundError:
            raise CheckpointError(f"{_INDEX_FILE} names {file.name}, which is missing") from None
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from None
        except SafetensorError as error:
            raise CheckpointError(
                f"{file} is truncated or damaged, download it again: {error}"
            ) from None
        names = set(tensors.keys())
        missing = sorted(indexed - names)
        if missing:
            raise CheckpointError(f"{_INDEX_FILE} looks for {missing[0]} in {file.name} in vain")
        self._slices.update((name, tensors.get_slice(name)) for name in names)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the weights."""
        self._slices.clear()
        self._exit.close()

    def __contains__(self, name: str) -> bool:
        return name in self._slices

    def tokenizer_end(self) -> int | None:
        """The token that the tokenizer says ends a text; None where it says nothing.

        Raises:
            CheckpointError: One of the tokenizer's files can't be read.
        """
        try:
            config = tokenizer_config(self.folder)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        end = special_tokens(config).get("eos_token")
        vocabulary = self._tokenizer.get("model", {}).get("vocab")
        known = dict(vocabulary) if isinstance(vocabulary, dict) else {}
        for each in self._tokenizer.get("added_tokens", []):
            known[each["content"]] = each["id"]
        return None if end is None else known.get(end)

    def names(self) -> list[str]:
        """The names of all tensors."""
        return sorted(self._slices)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of a tensor: float32, float16 or (from ``ml_dtypes``) bfloat16."""
        stored = self._slice(name).get_dtype()
        if stored not in _DTYPES:
            raise CheckpointError(
                f"{name} is stored as {stored}; only {', '.join(sorted(_DTYPES))} are read"
            )
        return _DTYPES[stored]

    def tensor(self, name: str) -> NDArray[Any]:
        """Read a whole tensor, in the dtype it is stored in."""
        self.dtype(name)
        return np.asarray(self._slice(name)[:])

    def blocks(self, name: str, rows: range | None = None) -> Iterator[NDArray[Any]]:
        """Read a matrix, or some rows of it, as consecutive blocks of rows of about 16 MiB."""
        count, columns = self.shape(name)
        rows = range(count) if rows is None else rows
        step = max(1, _BLOCK_BYTES // (columns * self.dtype(name).itemsize))
        tensor = self._slice(name)
        for start in range(rows.start, rows.stop, step):
            yield np.asarray(tensor[start : min(start + step, rows.stop)])

    def _slice(self, name: str) -> Any:
        try:
            return self._slices[name]
        except KeyError:
            raise CheckpointError(f"the checkpoint has no tensor {name}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        hint = (
            "; a slow tokenizer has to be converted to a fast one first"
            if path.name == TOKENIZER_FILE
            else ""
        )
        raise CheckpointError(f"{path.parent} has no {path.name}{hint}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content


def _weight_files(folder: Path) -> dict[Path, set[str]]:
    """The safetensors files, each with the tensors that an index expects in it."""
    if (folder / _SINGLE_FILE).exists():
        return {folder / _SINGLE_FILE: set()}
    if (folder / _INDEX_FILE).exists():
        weight_map = _read_json(folder / _INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{folder / _INDEX_FILE} has no weight_map")
        files: dict[Path, set[str]] = {}
        for name, file in weight_map.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise CheckpointError(f"{_INDEX_FILE} puts {name} in {file!r}, not a file here")
            files.setdefault(folder / file, set()).add(name)
        return files
    if any(True for pattern in _PICKLE_PATTERNS for _ in folder.glob(pattern)):
        raise CheckpointError(
            f"{folder} holds its weights in pickle files, which can run code when they are "
            "opened; convert them to safetensors"
        )
    raise CheckpointError(f"{folder} has neither {_SINGLE_FILE} nor {_INDEX_FILE}")
