"""What engines are compared on (``build.quality.closeness``): text, and answers to questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build.progress import Progress, silent
from build.quality.closeness import Logits, Passage, windows
from contract.memory import give_back_memory
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.scheduled import Scheduled
from python_backend.engine.sequence import SamplingParams, Sequence
from python_backend.text.tokenizer import TextTokenizer

PROSE = Path(__file__).with_name("prose.txt")
"""57,000 tokens (SmolLM2's): from Jane Austen's Emma and the Jargon File 4.4.7, both in the public
domain."""
QUESTIONS = Path(__file__).with_name("questions.txt")
"""380 short ones, a line each, that small models answer."""

WINDOW_TOKENS = 512
ANSWER_TOKENS = 48
_SEQUENCES = 32


class EnginePredictor:
    """An engine folder, read as it is served: the same runner, the same kind of KV cache.

    Attributes:
        size_bytes: Of its weights.
    """

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            EngineError: It holds no usable engine.
        """
        give_back_memory()  # before an engine comes on top
        self.size_bytes = (folder / "weights.bin").stat().st_size
        self._engine = OnnxEngine(
            folder,
            max_sequences=1,
            max_num_tokens=WINDOW_TOKENS,
            spare_rows=WINDOW_TOKENS,
            kv_cache_bytes=1 << 28,
        )
        self._blocks = list(range(-(-WINDOW_TOKENS // self._engine.layout.block_tokens)))

    def logits(self, tokens: NDArray[np.int32], rows: int) -> Logits:
        sequence = Sequence(tokens, SamplingParams(max_tokens=1))
        sequence.blocks = self._blocks  # what the passage before left there, nothing reads
        sequence.rotary_start = self._engine.config.rotary_start(len(tokens))
        work = Scheduled(sequence, len(tokens), num_scored=rows - 1, num_chosen=1)
        logits = self._engine.runner.run([work])
        assert isinstance(logits, np.ndarray), "the engine chooses tokens where logits are wanted"
        return logits


def prose(folder: Path) -> list[Passage]:
    """The text that is read, in windows, by the tokenizer of an engine folder."""
    tokenizer = TextTokenizer.load(folder)
    paragraphs = PROSE.read_text(encoding="utf-8").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    begin = tokenizer.encode("", add_special_tokens=True)
    return list(windows(tokenizer.encode(text, False), begin, WINDOW_TOKENS))


def answers(folder: Path, progress: Progress = silent) -> list[Passage]:
    """Questions with what an engine answers greedily, of which the answers are compared.

    Along these tokens agreement is what a user sees of it: how often another engine, whose answer
    has been the same so far, says the same next.
    """
    tokenizer = TextTokenizer.load(folder)
    engine = OnnxEngine(folder, max_sequences=_SEQUENCES, kv_cache_bytes=1 << 28)
    params = SamplingParams(
        max_tokens=ANSWER_TOKENS, end_ids=frozenset(engine.config.end_token_ids)
    )
    sequences = [Sequence(prompt, params) for prompt in questions(tokenizer)]
    for sequence in sequences:
        engine.check(sequence.prompt, params)
        engine.add(sequence)
    while engine.has_work:
        engine.step()
        progress("answers", sum(each.finished for each in sequences), len(sequences))
    return [Passage(each.tokens(), len(each.output)) for each in sequences if each.output]


def questions(tokenizer: TextTokenizer) -> Iterator[NDArray[np.int32]]:
    """The questions' tokens, in the chat template where there is one."""
    for question in QUESTIONS.read_text(encoding="utf-8").splitlines():
        if tokenizer.chat_template is None:
            yield tokenizer.encode(question, add_special_tokens=True)
        else:
            text = tokenizer.chat_template.render([{"role": "user", "content": question}])
            yield tokenizer.encode(text, add_special_tokens=False)
