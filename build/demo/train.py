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
import platform
import shutil
import time
from collections.abc import Callable, Iterator
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
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from build.demo.data import KINDS, Message, training_conversations
from build.demo.model_card import TrainingRecord, render_card
from build.demo.score import Report, score
from build.demo.tokenizer import (
    CONTEXT_TOKENS,
    END,
    PAD,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
    render,
    tokenizer_config,
    train_tokenizer,
)

CHECKPOINT = Path(__file__).parent / "checkpoint"
LICENSE = Path(__file__).parents[2] / "LICENSE"

SEED = 7
THREADS = 2
TOKENIZER_CONVERSATIONS = 40_000
ROW_TOKENS = (128, 512)  # A conversation goes into the narrowest row that holds it.
BATCH_TOKENS = 2048
TRAINING_TOKENS = 9_000_000
PEAK_LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
EXAM_QUESTIONS = 120  # of each kind
QUIZ_QUESTIONS = 25  # of each kind, while training
QUIZZES = 5  # The first is left out: a model that cannot stop yet takes minutes.
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


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[tuple[int, list[Row]]]:
    """An endless stream of batches: a width, and rows of at most that many tokens."""
    waiting: dict[int, list[Encoded]] = {width: [] for width in ROW_TOKENS}
    for conversation in training_conversations(seed):
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


def loss_of(model: LlamaForCausalLM, width: int, packed: list[Row]) -> Tensor:
    """Mean cross-entropy over the assistant's tokens."""
    ids, labels, positions, mask = tensors(width, packed)
    hidden = model.model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    targets = labels[:, 1:]
    counted = targets != IGNORED
    # The output matrix is the widest of all: apply it only where a token counts.
    return cross_entropy(model.lm_head(hidden[:, :-1][counted]), targets[counted])


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LEARNING_RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def answerer(
    model: LlamaForCausalLM, tokenizer: Tokenizer, batch_size: int = 50
) -> Callable[[list[str]], list[str]]:
    """A `generate` for `score`: greedy, in batches of prompts padded on the left."""

    @torch.inference_mode()
    def generate(questions: list[str]) -> list[str]:
        model.eval()
        answers: list[str] = []
        for start in range(0, len(questions), batch_size):
            prompts = [
                tokenizer.encode(render([Message("user", q)], add_generation_prompt=True)).ids
                for q in questions[start : start + batch_size]
            ]
            longest = max(map(len, prompts))
            pad = SPECIAL_TOKENS.index(PAD)
            ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=ANSWER_TOKENS,
                eos_token_id=SPECIAL_TOKENS.index(END),
                pad_token_id=pad,
            )
            answers += tokenizer.decode_batch(output[:, longest:].tolist())
        model.train()
        return answers

    return generate


def train_model(model: LlamaForCausalLM, tokenizer: Tokenizer, tokens: int) -> None:
    """Trains `model` in place on about `tokens` tokens, showing how it goes."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    steps = max(1, tokens // BATCH_TOKENS)
    quiz_every = max(1, steps // QUIZZES)
    stream = batches(tokenizer, SEED)
    start = time.perf_counter()
    quiz_s = 0.0
    recent = 0.0
    for step, (width, packed) in zip(range(steps), stream, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = loss_of(model, width, packed)
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
        if done % quiz_every == 0 and quiz_every < done < steps:
            quiz_start = time.perf_counter()
            report = score(answerer(model, tokenizer), QUIZ_QUESTIONS)
            kinds = "  ".join(f"{kind} {report.accuracy_of(kind):.0%}" for kind in KINDS)
            print(f"held-out {report.accuracy:.1%}:  {kinds}", flush=True)
            quiz_s += time.perf_counter() - quiz_start


def write_json(path: Path, content: dict[str, object]) -> None:
    """Writes `content` with an indent and a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def examine(folder: Path, tokenizer: Tokenizer) -> Report:
    """The score of the weights as they lie in `folder`, computed in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return score(answerer(model, tokenizer), EXAM_QUESTIONS)


def main() -> None:
    """Trains, examines, writes the checkpoint."""
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument("--tokens", type=int, default=TRAINING_TOKENS, help="tokens to train on")
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
    train_model(model, tokenizer, arguments.tokens)

    folder = arguments.output.with_name(arguments.output.name + ".new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_weights(folder, model, tokenizer)
    seconds = time.perf_counter() - start
    report = examine(folder, tokenizer)
    record = TrainingRecord(
        parameters, arguments.tokens, seconds, machine(), SEED, THREADS, ROW_TOKENS[-1]
    )
    (folder / "README.md").write_text(render_card(CONFIG, record, report), encoding="utf-8")
    replace_folder(folder, arguments.output)
    print(report.table())
    print(f"{arguments.output} written after {seconds / 60:.1f} minutes of training")


if __name__ == "__main__":
    main()
