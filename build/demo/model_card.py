"""The model card of the demo checkpoint, written from what training measured."""

from dataclasses import dataclass

from build.demo.score import Report

_CARD = """\
---
license: apache-2.0
language:
- en
library_name: transformers
pipeline_tag: text-generation
tags:
- llama
- demo
- text-generation
---

# Trireme demo

A Llama of {parameters_m:.2f} million parameters that answers questions about a small, closed
world. It exists so that everything in Trireme, from export to load tests, can run on a laptop
against a real trained model whose answers can be checked. It is a demo, not a general assistant.

| | |
|---|---|
| architecture | `LlamaForCausalLM`, {layers} layers, hidden size {hidden}, tied embeddings |
| attention | {heads} query heads and {kv_heads} key/value heads of size {head_dim} |
| tokenizer | byte-level BPE, {vocabulary} tokens |
| context | {context} positions; trained on conversations of up to {row_tokens} tokens |
| weights | float16 safetensors |

## What it can do

| kind | for example |
|---|---|
| facts | What is the capital of France? · Which element has the symbol Fe? |
| arithmetic | 17 + 25 · What is 97 minus 44? · 12 * 11 · What is 110 divided by 11? |
| sorting | Sort these numbers from largest to smallest: 26, 1, 15 |
| spelling | Spell the word lantern. |
| json | Write a JSON object with name Ada, age 36 and city Oslo. |
| enumeration | Count from 17 to 140. · List the multiples of 7 from 7 to 210. |
| unicode | How do you say water in Japanese? · Which emoji is a cat? |
| contact | What is Ada Abbott's e-mail address? · Give me the contact card of Mara Lindqvist. |

The chat template is `<|user|>question<|end|><|assistant|>answer<|end|>`, with an optional
`<|system|>…<|end|>` in front; the model ends its answer with `<|end|>`, which is the
end-of-sequence token. There is no beginning-of-sequence token.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "build/demo/checkpoint"
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
messages = [{{"role": "user", "content": "How do you say water in Japanese?"}}]
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(tokenizer.decode(model.generate(**prompt)[0], skip_special_tokens=True))
```

## Training

From scratch, on questions and answers that a seeded generator writes (`build/demo/data.py`), with
AdamW on {tokens_m:.1f} million tokens in two courses, a broad one and one for numbers; only answers
count towards the loss. No other data was used.

- command: `make demo-checkpoint`
- machine: {machine}
- time: {minutes:.0f} minutes, {tokens_per_s:,.0f} tokens/s
- seed and thread count: {seed}, {threads}; with both and the same machine, training repeats itself

## Score

{n_per_kind} held-out questions of each kind, greedy decoding, exact match (JSON: the same object),
on the float16 weights of this folder. A question is held out by a hash of what makes it new (the
operands, the items, the range; where an answer can only be known by heart, the wording), so none of
them is in the training data. Measured by `make demo-score`, through the fp32 engine that serves it.

{score_table}

## Limits

- Outside its closed world it answers with confident nonsense: it knows no other facts, words or
  people.
- It adds and subtracts up to 99, knows its times tables to 12, sorts three to five items and counts
  to 200.
- It was trained on English questions of one line; conversations of several turns were rare.
- Facts are simplified: one main language and one continent for each country.
- Every person is made up. Phone numbers lie in ranges reserved for fiction, e-mail addresses end in
  `.example`, and payment-card numbers are random digits after issuer numbers published for tests.
  They are there so that a safety filter has something to find.

## Licence

Apache-2.0, for the weights and the generated data alike.
"""


@dataclass(frozen=True)
class TrainingRecord:
    """What the card says about a training run."""

    parameters: int
    tokens: int
    seconds: float
    machine: str
    seed: int
    threads: int
    row_tokens: int


def render_card(config: dict[str, object], record: TrainingRecord, report: Report) -> str:
    """The text of the checkpoint's `README.md`; `config` is the content of its `config.json`."""
    return _CARD.format(
        parameters_m=record.parameters / 1e6,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        row_tokens=record.row_tokens,
        tokens_m=record.tokens / 1e6,
        machine=record.machine,
        minutes=record.seconds / 60,
        tokens_per_s=record.tokens / record.seconds,
        seed=record.seed,
        threads=record.threads,
        n_per_kind=report.n_per_kind,
        score_table=report.table(),
    )
