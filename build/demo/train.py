"""Trains the demo checkpoint: tokenizer, model, score, model card.

`python -m build.demo.train` writes `build/demo/checkpoint/`. Conversations are packed into rows, so
that a batch has hardly any padding and mixes kinds of question; attention stays inside each
conversation, and only what the assistant says counts towards the loss. With the same
seed, thread count and machine, a run repeats itself.
"""

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

# The encoder's own threads would compete with the two that train.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM

from build.demo import exam
from build.demo.data import BROAD, KINDS, NUMBERS, Message, Mix, training_conversations
from build.demo.demo_tokenizer import (
    CONTEXT_TOKENS,
    END,
    PAD,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
    render,
    tokenizer_config,
    train_tokenizer,
)
from build.demo.model_card import TrainingRecord, render_card
from build.demo.score import Report
from python_backend.engine.processor import processor_name

CHECKPOINT = Path(__file__).parent / "checkpoint"
LICENSE = Path(__file__).parents[2] / "LICENSE"

SEED = 7
THREADS = 2
TOKENIZER_CONVERSATIONS = 40_000
ROW_TOKENS = (128, 512)  # A conversation goes into the narrowest row that holds it.
BATCH_TOKENS = 2048
WARMUP_STEPS = 100
EXAM_QUESTIONS = 120  # of each kind
QUIZ_QUESTIONS = 25  # of each kind, while training
QUIZZES = 6  # in a course
ANSWER_TOKENS = 512
IGNORED = -100

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": CONTEXT_TOKENS,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": SPECIAL_TOKENS.index(END),
    "pad_token_id": SPECIAL_TOKENS.index(PAD),
    "use_cache": True,
    "torch_dtype": "float16",
}
GENERATION_CONFIG: dict[str, object] = {
    "eos_token_id": SPECIAL_TOKENS.index(END),
    "pad_token_id": SPECIAL_TOKENS.index(PAD),
    "do_sample": False,
    "max_new_tokens": ANSWER_TOKENS,
}


@dataclass(frozen=True)
class Course:
    """One stretch of training, with a warm-up and a cosine of its own.

    Attributes:
        mix: What the examples are.
        tokens: How many tokens of them.
        peak_learning_rate: Where the warm-up ends and the cosine begins.
        end_weight: How many times the loss of the end token counts. One token in a hundred says
            where to stop, and it is the one that makes a long answer right or wrong.
    """

    mix: Mix
    tokens: int
    peak_learning_rate: float
    end_weight: float


COURSES = (
    Course(BROAD, 10_000_000, peak_learning_rate=2e-3, end_weight=1.0),
    Course(NUMBERS, 4_500_000, peak_learning_rate=1e-3, end_weight=6.0),
)

Encoded: TypeAlias = tuple[list[int], list[int]]
Row: TypeAlias = list[Encoded]


def encode(tokenizer: Tokenizer, conversation: tuple[Message, ...]) -> Encoded:
    """Token ids of a conversation, and the labels: the same ids where the assistant speaks."""
    ids: list[int] = []
    labels: list[int] = []
    for index, message in enumerate(conversation):
        turn = tokenizer.encode(render(conversation[index : index + 1])).ids
        ids += turn
        spoken = message.role == "assistant"
        labels += [IGNORED, *turn[1:]] if spoken else [IGNORED] * len(turn)
    return ids, labels


def take_row(waiting: list[Encoded], width: int) -> Row:
    """Moves the conversations that first fit in `width` tokens from `waiting` to a row."""
    row: Row = []
    left: list[Encoded] = []
    room = width
    for encoded in waiting:
        fits = len(encoded[0]) <= room
        room -= len(encoded[0]) if fits else 0
        (row if fits else left).append(encoded)
    waiting[:] = left
    return row


def batches(tokenizer: Tokenizer, seed: int, mix: Mix) -> Iterator[tuple[int, list[Row]]]:
    """An endless stream of batches: a width, and rows of at most that many tokens."""
    waiting: dict[int, list[Encoded]] = {width: [] for width in ROW_TOKENS}
    for conversation in training_conversations(seed, mix):
        encoded = encode(tokenizer, conversation)
        width = next((width for width in ROW_TOKENS if len(encoded[0]) <= width), None)
        if width is None:
            continue
        waiting[width].append(encoded)
        # Twice a batch, so that every row finds something short for its end.
        if sum(len(ids) for ids, _ in waiting[width]) >= 2 * BATCH_TOKENS:
            yield width, [take_row(waiting[width], width) for _ in range(BATCH_TOKENS // width)]


def tensors(width: int, packed: list[Row]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tensors of a batch of rows of `width` tokens.

    Returns:
        ids `[rows, tokens]`, labels `[rows, tokens]`, positions within each conversation
        `[rows, tokens]`, and a mask `[rows, 1, tokens, tokens]`, true where a token may look.
    """
    shape = (len(packed), width)
    ids = torch.full(shape, SPECIAL_TOKENS.index(PAD))
    labels = torch.full(shape, IGNORED)
    positions = torch.zeros(shape, dtype=torch.long)
    owners = torch.zeros(shape, dtype=torch.long)
    for r, row in enumerate(packed):
        start = 0
        for owner, (conversation_ids, conversation_labels) in enumerate(row, start=1):
            end = start + len(conversation_ids)
            ids[r, start:end] = torch.tensor(conversation_ids)
            labels[r, start:end] = torch.tensor(conversation_labels)
            positions[r, start:end] = torch.arange(end - start)
            owners[r, start:end] = owner
            start = end
    mask = (owners[:, None, :, None] == owners[:, None, None, :]).tril()
    return ids, labels, positions, mask


class Batches(IterableDataset[tuple[Tensor, ...]]):
    """The batches of a course, made in a process of their own while the model computes."""

    def __init__(self, tokenizer: Tokenizer, seed: int, mix: Mix) -> None:
        self._arguments = (tokenizer, seed, mix)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        torch.set_num_threads(1)
        for width, packed in batches(*self._arguments):
            yield tensors(width, packed)


def loss_of(model: LlamaForCausalLM, batch: tuple[Tensor, ...], end_weight: float) -> Tensor:
    """Weighted mean cross-entropy over the assistant's tokens."""
    ids, labels, positions, mask = batch
    hidden = model.model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    targets = labels[:, 1:]
    counted = targets != IGNORED
    # The output matrix is the widest of all: apply it only where a token counts.
    targets = targets[counted]
    losses = cross_entropy(model.lm_head(hidden[:, :-1][counted]), targets, reduction="none")
    weights = torch.where(targets == SPECIAL_TOKENS.index(END), end_weight, 1.0)
    return (losses * weights).sum() / weights.sum()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def train_model(model: LlamaForCausalLM, tokenizer: Tokenizer, course: Course, seed: int) -> None:
    """Takes `model` through a course, in place, showing how it goes."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    steps = max(1, course.tokens // BATCH_TOKENS)
    quiz_every = max(1, steps // QUIZZES)
    dataset = Batches(tokenizer, seed, course.mix)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=8)
    start = time.perf_counter()
    quiz_s = 0.0
    recent = 0.0
    for step, batch in zip(range(steps), loader, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, course.peak_learning_rate)
        loss = loss_of(model, batch, course.end_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        done = step + 1
        if done % 50 == 0 or done == steps:
            per_step_s = (time.perf_counter() - start - quiz_s) / done
            print(
                f"step {done}/{steps}  loss {recent:.4f}  "
                f"{BATCH_TOKENS / per_step_s:,.0f} tokens/s  "
                f"{(steps - done) * per_step_s / 60:.1f} min left",
                flush=True,
            )
        if done % quiz_every == 0 and done < steps:
            quiz_start = time.perf_counter()
            report = examine(model, tokenizer, QUIZ_QUESTIONS)
            kinds = "  ".join(f"{kind} {report.accuracy_of(kind):.0%}" for kind in KINDS)
            print(f"held-out {report.accuracy:.1%}:  {kinds}", flush=True)
            quiz_s += time.perf_counter() - quiz_start


def write_json(path: Path, content: dict[str, object]) -> None:
    """Writes `content` with an indent and a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@torch.no_grad()
def round_to_float16(model: LlamaForCausalLM) -> None:
    """Rounds the weights as the checkpoint stores them: what a course begins from can be kept."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(torch.float16))


def write_weights(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Writes all that `transformers` needs to load the model."""
    weights = {
        name: tensor.to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # Tied to the embeddings.
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
    write_json(folder / "tokenizer_config.json", tokenizer_config())
    shutil.copy(LICENSE, folder / "LICENSE")


def replace_folder(new: Path, target: Path) -> None:
    """Puts the folder `new` where `target` is, so that a reader never sees a half-written one."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def machine() -> str:
    """The processor of this machine, in words."""
    return f"{processor_name()}, {os.cpu_count()} cores"


def examine(model: LlamaForCausalLM, tokenizer: Tokenizer, n_per_kind: int) -> Report:
    """The score of a model as it would be served: its float16 weights, through the engine."""
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder), model, tokenizer)
        return exam.examine(Path(folder), "fp32", n_per_kind)


def main() -> None:
    """Trains, examines, writes the checkpoint."""
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument("--share", type=float, default=1.0, help="share of the tokens to train on")
    parser.add_argument("--output", type=Path, default=CHECKPOINT, help="folder to write")
    arguments = parser.parse_args()

    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    start = time.perf_counter()
    corpus = islice(training_conversations(SEED), TOKENIZER_CONVERSATIONS)
    tokenizer = train_tokenizer(m.content for conversation in corpus for m in conversation)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {tokenizer.get_vocab_size()} tokens in the vocabulary")
    for number, course in enumerate(COURSES):
        course = replace(course, tokens=round(course.tokens * arguments.share))
        train_model(model, tokenizer, course, SEED + number)
        round_to_float16(model)

    folder = arguments.output.with_name(arguments.output.name + ".new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_weights(folder, model, tokenizer)
    seconds = time.perf_counter() - start
    tokens = round(sum(course.tokens for course in COURSES) * arguments.share)
    report = examine(model, tokenizer, EXAM_QUESTIONS)
    record = TrainingRecord(parameters, tokens, seconds, machine(), SEED, THREADS, ROW_TOKENS[-1])
    (folder / "README.md").write_text(render_card(CONFIG, record, report), encoding="utf-8")
    replace_folder(folder, arguments.output)
    print(report.table())
    print(f"{arguments.output} written after {seconds / 60:.1f} minutes of training")


if __name__ == "__main__":
    main()
