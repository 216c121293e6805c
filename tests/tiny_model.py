"""A tiny random language model and a text for it; nothing is downloaded."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

WORDS = tuple("abcdefghijklmnopqrstuvwxyz")
CONTEXT = 128
LLAMA = {
    "vocab_size": 1 + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
    # Large weights, so that attention is far from uniform and a wrong mask or layer is detected.
    "initializer_range": 0.5,
}


def make_model(kind: str = "Llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**LLAMA | changes)
    head = "LMHeadModel" if kind == "Bert" else "ForCausalLM"
    return getattr(transformers, kind + head)(config).to(dtype).eval()


def save_model(folder: Path, kind: str = "Llama", **changes: Any) -> Path:
    """The model saved as a directory, with a tokenizer of one-letter words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    numbers = {word: number for number, word in enumerate(("?", *WORDS))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    make_model(kind, **changes).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(
        folder
    )
    return folder


def save_text(file: Path, count: int = CONTEXT + 1) -> Path:
    file.write_text(" ".join(random.Random(0).choices(WORDS, k=count)))
    return file


def token_ids(count: int) -> Tensor:
    drawn = random.Random(0).choices(range(1, 1 + len(WORDS)), k=count)
    return torch.tensor(drawn)
