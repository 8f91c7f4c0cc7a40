"""Small tokenizers of the two supported families."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

LINES = [
    "The cat sat on the mat, and the dog looked on.",
    "Über den Wolken, déjà vu, señor Muñoz, Zoë.",
    "東京の猫は窓で眠る。",
    "Emoji: 🐱🚢🏳️‍🌈 and more 🐱🚢.",
] * 3


def byte_level() -> Tokenizer:
    """Byte-level BPE, as Llama 3's and Qwen's, with added tokens of every kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    _add_tokens(tokenizer)
    return tokenizer


def sentencepiece(strip: bool = True, byte_fallback: bool = True) -> Tokenizer:
    """BPE with visible spaces and, if wanted, byte fallback, as Llama 2's and Mistral's."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["", *"▁ ▁▁ ▁the ▁cat the a ▁a▁b é ñ 猫 京 🐱 . <0x".split()]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    parts = {
        decoders.Replace("▁", " "): True,
        decoders.ByteFallback(): byte_fallback,
        decoders.Fuse(): True,
        decoders.Strip(" ", 1, 0): strip,
    }
    tokenizer.decoder = decoders.Sequence([part for part, wanted in parts.items() if wanted])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    _add_tokens(tokenizer)
    return tokenizer


def _add_tokens(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens(["<|im start|>", "<|é|>"])
    texts = ("new york", " x", "é!", "東 京", "▁y", "▁")
    tokenizer.add_tokens([AddedToken(text) for text in texts])
