"""The slot for a text classifier: any ONNX model, read in windows of the stream.

A classifier's folder is what Hugging Face's exporters write: ``model.onnx`` with the inputs
``input_ids`` and, if it wants them, ``attention_mask`` and ``token_type_ids`` (int64 ``[batch,
tokens]``) and the output ``logits`` (``[batch, labels]``); ``tokenizer.json``; and ``config.json``
with ``id2label`` and, for labels that don't exclude each other, ``"problem_type":
"multi_label_classification"``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from contract.errors import EngineError
from python_backend.safety.finder import Finder, Span

_MAX_TOKENS = 512


class Classifier:
    """A text classifier on ONNX Runtime.

    Attributes:
        labels: What it tells apart.
    """

    def __init__(
        self, session: Any, tokenizer: Tokenizer, labels: Sequence[str], multi_label: bool
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._multi_label = multi_label
        self._inputs = [each.name for each in session.get_inputs()]
        self.labels = tuple(labels)

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """Read a classifier's folder.

        Raises:
            EngineError: Something is missing, or the model is of another shape.
        """
        try:
            config = json.loads((folder / "config.json").read_bytes())
            labels = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            session = ort.InferenceSession(
                str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # tokenizers and onnxruntime raise plain exceptions
            raise EngineError(f"{folder} holds no classifier: {error}") from error
        limit = min(int(config.get("max_position_embeddings", _MAX_TOKENS)), _MAX_TOKENS)
        tokenizer.no_padding()
        tokenizer.enable_truncation(limit)
        multi_label = config.get("problem_type") == "multi_label_classification"
        classifier = cls(session, tokenizer, labels, multi_label)
        unknown = set(classifier._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise EngineError(f"{folder}: the model's input {sorted(unknown)[0]} is not known")
        scores = classifier.classify([""])
        if scores.shape != (1, len(labels)):
            raise EngineError(
                f"{folder}: the model's output has shape {list(scores.shape)}; "
                f"it must be [1, {len(labels)}], one score a label"
            )
        return classifier

    def classify(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities of the labels.

        Returns:
            float32 ``[texts, labels]``.
        """
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        width = max(1, *(len(ids) for ids in encoded))
        values = {
            "input_ids": np.zeros((len(texts), width), dtype=np.int64),
            "attention_mask": np.zeros((len(texts), width), dtype=np.int64),
            "token_type_ids": np.zeros((len(texts), width), dtype=np.int64),
        }
        for row, ids in enumerate(encoded):
            values["input_ids"][row, : len(ids)] = ids
            values["attention_mask"][row, : len(ids)] = 1
        (logits, *_) = self._session.run(None, {name: values[name] for name in self._inputs})
        logits = np.asarray(logits, dtype=np.float32)
        if self._multi_label:
            return 1 / (1 + np.exp(-logits))
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)


class ClassifierFinder(Finder):
    """Reads the stream every ``stride`` characters, the last ``window`` of them at a time.

    A window that is of a label is a match of the characters that were new in it. Windows lie at
    fixed places of the stream, so its cuts don't move them.
    """

    def __init__(
        self,
        classifier: Classifier,
        thresholds: Mapping[str, float],
        window: int,
        stride: int,
    ) -> None:
        """Check the labels.

        Raises:
            EngineError: The classifier does not have a label.
        """
        unknown = set(thresholds) - set(classifier.labels)
        if unknown:
            known = ", ".join(classifier.labels)
            raise EngineError(f"there is no label {sorted(unknown)[0]}; there are {known}")
        self._classifier = classifier
        self._thresholds = np.array(
            [thresholds.get(label, np.inf) for label in classifier.labels], dtype=np.float32
        )
        self._stride = stride
        self._window = window
        self.context = window
        self.kind = "_or_".join(sorted(thresholds))

    def scan(self, text: str, start: int, final: bool, offset: int = 0) -> tuple[list[Span], int]:
        ends: list[int] = []
        place = offset + start
        while place + self._stride <= offset + len(text):
            place += self._stride
            ends.append(place - offset)
        if final and place < offset + len(text):
            ends.append(len(text))
        if not ends:
            return [], start
        windows = [text[max(0, end - self._window) : end] for end in ends]
        hits = (self._classifier.classify(windows) >= self._thresholds).any(axis=1)
        starts = [start, *ends]
        spans = [
            Span(before, end) for before, end, hit in zip(starts, ends, hits, strict=False) if hit
        ]
        return spans, ends[-1]
