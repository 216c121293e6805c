"""Plans a run with a model. Loads only the configuration and the tokenizer, not the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import variants
from bench.inputs.model_files import ModelFiles, find, required
from bench.plan.sweep import attentions_named
from bench.schema.model_row import ALL_LAYERS, ModelCase
from bench.workloads.model.text import ModelError, Text, read_text
from variants import Attention
from variants.contract.registry import default_knob


@dataclass(frozen=True)
class Setup:
    """The settings that all cases of a run share."""

    model: str  # a name, or the absolute path of a folder or file
    text: Path
    device: str
    dtype: str
    passes: int  # timed passes over the text for each case

    @property
    def source(self) -> ModelFiles:
        """Where the model is; CaptureError if the model or a package it needs is missing."""
        required("transformers", self.model)
        return find(self.model)

    def token_ids(self, text: Text) -> list[int]:
        """The text as token ids of the model's tokenizer."""
        source = self.source
        transformers = required("transformers", self.model)
        tokenizer = source.load(transformers.AutoTokenizer)
        # verbose=False: no warning that the text is longer than the context; `plan` checks that.
        options = {"add_special_tokens": source.start_token, "verbose": False}
        return list(tokenizer(text.words, **options)["input_ids"])


@dataclass(frozen=True)
class Plan:
    """A run: its cases in order, and facts about model and text for environment.json."""

    setup: Setup
    cases: tuple[ModelCase, ...]
    facts: dict[str, Any]


def plan(
    setup: Setup, attentions: Sequence[Attention], seq_lens: Sequence[int], layers: Sequence[int]
) -> Plan:
    """All cases, shortest first. An empty `layers` means all layers of the model.

    Raises:
        ModelError: a length exceeds the model's context or the text, or a layer does not exist.
        CaptureError: the model cannot be loaded.
    """
    source, text = setup.source, read_text(setup.text)
    transformers = required("transformers", setup.model)
    config = source.load(transformers.AutoConfig).get_text_config()
    count = config.num_hidden_layers
    if layers and not all(0 <= layer < count for layer in layers):
        raise ModelError(
            f"{setup.model}: layers must be numbers from 0 to {count - 1}; got {list(layers)}"
        )
    longest = max(seq_lens)
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and longest > context:
        raise ModelError(
            f"{setup.model}: seq_len must be at most {context}, the model's context; got {longest}"
        )
    tokens = len(setup.token_ids(text))
    if tokens <= longest:
        raise ModelError(
            f"{setup.text}: expected a text of at least {longest + 1} tokens, as each of the first "
            f"{longest} predicts the next; got {tokens}, so give a longer text or a seq_len of at "
            f"most {tokens - 1}"
        )
    which = " ".join(map(str, sorted(set(layers)))) or ALL_LAYERS
    cases = tuple(
        ModelCase(
            attention=attention,
            model=source.name,
            text=text.title,
            text_sha256=text.sha256,
            layers=which,
            device=setup.device,
            dtype=setup.dtype,
            seq_len=seq_len,
        )
        for seq_len in sorted(set(seq_lens))
        for attention in dict.fromkeys(attentions)
    )
    facts = {
        "name": source.name,
        "license": source.license,
        "layers": count,
        "context": context,
        "text": text.title,
        "text_license": text.license,
        "text_tokens": tokens,
        "knobs": {name: default_knob(name) for name in sorted({c.variant for c in cases})},
    }
    return Plan(setup, cases, facts)


def attentions(texts: Sequence[str], settings: str | None = None) -> list[Attention]:
    """The attentions that texts such as `"lsh num_hashes=2"` name.

    A text without hyperparameters stands for the grid of that variant. Without texts, all variants
    that can be causal are taken, and exact attention once.

    Args:
        texts: a variant each, with or without hyperparameters.
        settings: "grid" for the whole grid of a variant, "default" for only those of its settings
            that have the quality knob at its default. None means "grid" for `texts`, "default"
            without texts.

    Raises:
        ModelError: a variant or setting is unknown.
    """
    if not texts:
        found: list[Attention] = []
        for name, cls in sorted(variants.REGISTRY.items()):
            if True in cls.info.causal_choices:
                exact = cls.info.is_exact
                found += (
                    [variants.create(name)] if exact else variants.grid(name, settings or "default")
                )
        return found
    try:
        return [
            attention for text in texts for attention in attentions_named(text, settings or "grid")
        ]
    except ValueError as error:
        raise ModelError(str(error)) from error
