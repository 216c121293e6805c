"""Variants as the attention of models of transformers: small random models, nothing is
downloaded."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import variants
from tests.contract.attentions import small_settings
from variants import REGISTRY, Attention, UnsupportedError, attn_implementation, replace_attention
from variants.contract import pair_masks
from variants.pretrained import model_masks
from variants.pretrained.model_masks import read_mask

HEADS, HEAD_DIM = 4, 8
SIZES = {
    "vocab_size": 32,
    "hidden_size": HEADS * HEAD_DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    # Large weights, so that attention is far from uniform and a wrong scale or mask is detected.
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GPT2 = {
    "vocab_size": 32,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": HEADS,
    "n_positions": 64,
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
BART = {
    "vocab_size": 32,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "init_std": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
T5 = {
    "vocab_size": 32,
    "d_model": 32,
    "d_kv": HEAD_DIM,
    "num_heads": HEADS,
    "num_layers": 2,
    "d_ff": 48,
    "decoder_start_token_id": 0,
}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
    "initializer_range": 0.5,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("ForCausalLM", SIZES | {"num_key_value_heads": 2}),
    "Mistral": ("ForCausalLM", SIZES | {"num_key_value_heads": 2, "sliding_window": 8}),
    "Gemma2": ("ForCausalLM", SIZES | {"num_key_value_heads": 2, "head_dim": HEAD_DIM}),
    "GPTNeoX": ("ForCausalLM", SIZES),
    "GPT2": ("LMHeadModel", GPT2),
    "Bloom": ("ForCausalLM", {"vocab_size": 32, "hidden_size": 32, "n_layer": 2, "n_head": HEADS}),
    "Bert": ("Model", SIZES),
    "Splinter": ("Model", SIZES),
    "Bart": ("ForConditionalGeneration", BART),
    "T5": ("ForConditionalGeneration", T5),
    "ViT": ("Model", VIT),
}
LEFT, RIGHT, NONE = [[0] * 5 + [1] * 7, [1] * 12], [[1] * 12, [1] * 7 + [0] * 5], [[1] * 12] * 2
PADDINGS = {"left": LEFT, "right": RIGHT, "no": NONE}


# transformers' eager attention computes softmax in float32 for every dtype of the model; its sdpa
# does not.
PRECISE = {"eager": torch.float32, "sdpa": torch.float64}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def close(found: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    assert_close(found, expected, rtol=tolerance, atol=tolerance)


def model(kind: str, own: str = "sdpa", **changes: Any) -> Any:
    """A random model with an attention of transformers, in the dtype in which it can be
    compared."""
    transformers = pytest.importorskip("transformers")
    head, options = MODELS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options | changes)
    config._attn_implementation = own
    return getattr(transformers, kind + head)(config).to(PRECISE[own]).eval()


def small(name: str, **changes: Any) -> Attention:
    return variants.create(name, **small_settings(name) | changes)


def tokens(padding: list[list[int]] | None = None, length: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 32, (2, length), generator=generator)
    return {"input_ids": ids} | (
        {} if padding is None else {"attention_mask": Tensor(padding).long()}
    )


def output(model: Any, **call: Any) -> Tensor:
    with torch.no_grad():
        return model(**call)[0]


def implementations(model: Any) -> set[str]:
    return {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")}


def replaceable(kind: str, own: str) -> Any:
    """A model, if its attention can be replaced in this version of transformers."""
    made = model(kind, own)
    if not made._can_set_attn_implementation():
        pytest.skip(f"{kind} has a separate attention in this version of transformers")
    return made


class TestFullIsTheAttentionOfTheModel:
    """Equal in float64 up to rounding. At padding only NaN is an error."""

    @pytest.mark.parametrize(
        ("kind", "own"),
        [
            *[(kind, own) for kind in ("Llama", "GPTNeoX", "GPT2", "Bert") for own in PRECISE],
            ("Splinter", "eager"),
        ],
    )
    @pytest.mark.parametrize("padding", [*PADDINGS, None])
    def test_a_model_of_tokens(self, kind: str, padding: str | None, own: str) -> None:
        made = replaceable(kind, own)
        call = tokens(None if padding is None else PADDINGS[padding])
        expected = output(made, **call)
        found = output(replace_attention(made, "full"), **call)
        real = Tensor(PADDINGS[padding or "no"]).bool()
        close(found[real], expected[real])
        assert bool(found.isfinite().all())

    @pytest.mark.parametrize("own", PRECISE)
    @pytest.mark.parametrize("padding", [*PADDINGS, None])
    def test_an_encoder_with_a_decoder(self, padding: str | None, own: str) -> None:
        made = model("Bart", own)
        mask = PADDINGS[padding or "no"]
        call = tokens(None if padding is None else mask)
        call["decoder_input_ids"] = call["input_ids"][:, 3:]
        if padding:
            call["decoder_attention_mask"] = call["attention_mask"][:, 3:]
        expected = output(made, **call)
        found = output(replace_attention(made, "full"), **call)
        real = Tensor(mask).bool()[:, 3:]
        close(found[real], expected[real])
        assert bool(found.isfinite().all())

    def test_a_model_of_images(self) -> None:
        made = model("ViT")
        example = {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}
        expected = output(made, **example)
        close(output(replace_attention(made, "full", example=example), **example), expected)

    def test_the_scale_of_the_model_is_used(self) -> None:
        made = model("Llama")
        for layer in made.model.layers:
            layer.self_attn.scaling = 0.9
        expected = output(made, **tokens())
        close(output(replace_attention(made, "full"), **tokens()), expected)

    @pytest.mark.parametrize(
        "changes", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}]
    )
    def test_the_scale_of_gpt2_is_used(self, changes: dict[str, bool]) -> None:
        """Older versions of transformers do not pass it on, and their own sdpa ignores it."""
        made = model("GPT2", "eager", **changes)
        expected = output(made, **tokens())
        if hasattr(made.transformer.h[0].attn, "scaling"):
            close(output(replace_attention(made, "full"), **tokens()), expected)
            return
        with pytest.raises(UnsupportedError, match=f"the model also uses {next(iter(changes))}$"):
            replace_attention(made, "full")
        assert torch.equal(output(made, **tokens()), expected)

    def test_gradients_equal_those_of_the_model(self) -> None:
        made = model("Llama")
        call = tokens(LEFT)
        labels = call["input_ids"].masked_fill(call["attention_mask"] == 0, -100)
        made(**call, labels=labels).loss.backward()
        expected = {name: x.grad for name, x in made.named_parameters()}
        made.zero_grad()
        replace_attention(made, "full")(**call, labels=labels).loss.backward()
        for name, parameter in made.named_parameters():
            assert_close(parameter.grad, expected[name], rtol=1e-8, atol=1e-9)

    def test_returned_weights_equal_those_of_the_model(self) -> None:
        made = model("Llama", "eager")
        call = tokens(LEFT) | {"output_attentions": True}
        expected = made(**call).attentions
        found = replace_attention(made, "full")(**call).attentions
        for mine, own in zip(found, expected, strict=True):
            close(mine[0, :, 5:], own[0, :, 5:])
            close(mine[1], own[1])

    def test_a_decoder_that_is_not_causal(self) -> None:
        made = model("Llama", "eager")
        causal = output(made, **tokens(LEFT))
        made.config.is_causal = False
        expected = output(made, **tokens(LEFT))
        if torch.equal(expected, causal):
            pytest.skip("this version of transformers has no decoder that is not causal")
        found = output(replace_attention(made, "full"), **tokens(LEFT))
        real = Tensor(LEFT).bool()
        close(found[real], expected[real])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_types_have_a_small_error(self, dtype: torch.dtype) -> None:
        made = model("Llama").to(dtype)
        expected = output(made.double(), **tokens(LEFT))
        found = output(replace_attention(made.to(dtype), "full"), **tokens(LEFT))
        assert found.dtype == dtype
        assert (found - expected)[1].norm() < 0.05 * expected[1].norm()

    def test_a_sequence_of_only_padding_gives_finite_numbers(self) -> None:
        made = replace_attention(model("Llama"), "full")
        assert bool(output(made, **tokens([[0] * 12, [1] * 12])).isfinite().all())


class TestOtherVariants:
    @pytest.mark.parametrize("padding", [LEFT, None])
    def test_a_window_is_a_band_in_the_mask(self, padding: list[list[int]] | None) -> None:
        made = model("Llama", "eager")
        row = torch.arange(12)
        distance = row[:, None] - row
        band = (distance >= 0) & (distance <= 3)
        real = Tensor(padding or NONE).bool()
        band = (band & real[:, None]) | torch.eye(12, dtype=torch.bool)
        mask = torch.zeros(2, 1, 12, 12)
        mask.masked_fill_(~band[:, None], torch.finfo(mask.dtype).min)
        call = tokens(padding)
        positions = torch.arange(12)[None]
        expected = output(
            made, input_ids=call["input_ids"], attention_mask=mask, position_ids=positions
        )
        window = variants.create("sliding_window", window_size=3)
        found = output(replace_attention(made, window), **call, position_ids=positions)
        close(found[real], expected[real])
        assert not torch.allclose(found, output(replace_attention(made, "full"), **call), rtol=0.1)

    @pytest.mark.parametrize("name", sorted(REGISTRY))
    def test_every_variant_works_in_an_encoder_or_raises_with_the_reason(self, name: str) -> None:
        made = model("Splinter", "eager")
        attention = small(name)
        before = output(made, **tokens(RIGHT))
        if attention.info.causal_only:
            with pytest.raises(UnsupportedError, match=f"{name} is causal only"):
                replace_attention(made, attention)
            assert torch.equal(output(made, **tokens(RIGHT)), before)
            return
        found = output(replace_attention(made, attention), **tokens(RIGHT))
        assert bool(found.isfinite().all())
        # The values at padding do not matter.
        call = tokens(RIGHT)
        call["input_ids"] = call["input_ids"].masked_fill(call["attention_mask"] == 0, 7)
        real = Tensor(RIGHT).bool()
        close(output(made, **call)[real], found[real])

    @pytest.mark.parametrize("name", sorted(REGISTRY))
    def test_every_variant_is_causal_in_a_decoder_or_raises_with_the_reason(
        self, name: str
    ) -> None:
        made = model("Llama")
        attention = small(name)
        before, own = output(made, **tokens()), implementations(made)
        if True not in attention.info.causal_choices:
            with pytest.raises(UnsupportedError, match=f"{name} does not support 'causal'"):
                replace_attention(made, attention)
            assert implementations(made) == own
            assert torch.equal(output(made, **tokens()), before)
            return
        found = output(replace_attention(made, attention), **tokens())
        later = tokens()
        later["input_ids"][:, 8:] = 5
        assert_close(output(made, **later)[:, :8], found[:, :8])
        assert not torch.equal(output(made, **later)[:, 8:], found[:, 8:])


def alone_and_padded(length: int, before: int, behind: int) -> tuple[dict[str, Tensor], ...]:
    """A text by itself, and the same text in a padded batch with another text."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 32, (1, length), generator=generator)
    shape = (2, before + length + behind)
    batch = torch.randint(3, 32, shape, generator=generator)
    batch[:1, before : before + length] = ids
    mask = torch.ones(shape, dtype=torch.int64)
    mask[0, :before] = 0
    mask[0, before + length :] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids}, {
        "input_ids": batch,
        "attention_mask": mask,
        "position_ids": positions,
    }


class TestPaddedTexts:
    """Every variant gives the same result for a text in a padded batch as for the text by
    itself."""

    @pytest.mark.parametrize(("before", "behind"), [(9, 0), (4, 5)])
    @pytest.mark.parametrize("name", sorted(REGISTRY))
    def test_a_forward_pass_of_a_padded_text_equals_that_of_the_text_alone(
        self, name: str, before: int, behind: int
    ) -> None:
        attention = small(name)
        kind = "Llama" if True in attention.info.causal_choices else "Bert"
        made = replace_attention(model(kind), attention)
        alone, padded = alone_and_padded(30, before, behind)
        found = output(made, **padded)[:1, before : before + 30]
        close(found, output(made, **alone))

    @pytest.mark.parametrize("name", sorted(REGISTRY))
    def test_gradients_equal_those_of_the_model(self, name: str) -> None:
        attention = small(name)
        kind = "Llama" if True in attention.info.causal_choices else "Bert"
        made = replace_attention(model(kind), attention)
        alone, padded = alone_and_padded(20, 6, 3)
        grads = []
        for call, own in ((alone, slice(None)), (padded, slice(6, 26))):
            made.zero_grad()
            made(**call)[0][:1, own].square().sum().backward()
            grads.append([x.grad for x in made.parameters() if x.grad is not None])
        for one, other in zip(*grads, strict=True):
            assert_close(one, other, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("name", sorted(REGISTRY))
    def test_generation_from_a_padded_text_equals_that_from_the_text_alone(self, name: str) -> None:
        attention = small(name)
        if True not in attention.info.causal_choices:
            pytest.skip("has no causal form")
        made = replace_attention(model("Llama"), attention)
        alone, padded = alone_and_padded(20, 9, 0)
        del padded["position_ids"]  # transformers counts positions from the first token
        alone["attention_mask"] = torch.ones_like(alone["input_ids"])
        options = {
            "max_new_tokens": 12,
            "do_sample": False,
            "use_cache": attention.prefix_stable,
            "return_dict_in_generate": True,
            "output_scores": True,
        }
        one, other = (made.generate(**call, **options) for call in (alone, padded))
        assert torch.equal(one.sequences[0, 20:], other.sequences[0, 29:])
        close(torch.stack(other.scores)[:, 0], torch.stack(one.scores)[:, 0])

    @pytest.mark.parametrize("name", sorted(REGISTRY))
    def test_a_decoder_reads_a_padded_encoder(self, name: str) -> None:
        """Texts of an encoder have padding on the right, as from a tokenizer."""
        attention = small(name)
        if attention.info.causal_choices != (False, True):
            pytest.skip("does not support an encoder with a decoder")
        made = replace_attention(model("Bart"), attention)
        alone, padded = alone_and_padded(20, 0, 7)
        del padded["position_ids"]
        for length in (9, 27):  # as many as the encoder has, including padding
            decoder = torch.arange(2 * length).view(2, length) % 29 + 3
            expected = output(made, **alone, decoder_input_ids=decoder[:1])
            close(output(made, **padded, decoder_input_ids=decoder)[:1], expected)


@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
def test_a_model_with_a_replaced_attention_cannot_be_exported(masked: bool) -> None:
    made = replace_attention(model("Llama"), small("sliding_window"))
    call = tokens(LEFT if masked else None) | {"use_cache": False}
    with pytest.raises(UnsupportedError, match="reads the values of its masks"):
        torch.export.export(made, (), call)


# Norms and rotary positions of these models promote query and key under autocast, but not the
# value.
MIXING: dict[str, dict[str, Any]] = {
    "Llama": SIZES | {"num_key_value_heads": 2},
    "Qwen3": SIZES | {"num_key_value_heads": 2, "head_dim": HEAD_DIM},
    "Phi": SIZES | {"partial_rotary_factor": 0.5},
    "StableLm": SIZES | {"num_key_value_heads": 2, "partial_rotary_factor": 0.5},
    "GPTNeoX": SIZES,
}


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", MIXING)
class TestAutocast:
    def made(self, kind: str) -> Any:
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**MIXING[kind] | {"initializer_range": 0.2})
        config._attn_implementation = "sdpa"
        return getattr(transformers, f"{kind}ForCausalLM")(config).float()

    def gradients(self, made: Any, half: torch.dtype | None) -> Tensor:
        made.zero_grad()
        call = tokens(LEFT)
        labels = call["input_ids"].masked_fill(call["attention_mask"] == 0, -100)
        with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
            loss = made(**call, labels=labels).loss
        loss.backward()
        return torch.cat([x.grad.flatten() for x in made.parameters()]).double()

    def test_a_step_of_exact_attention_equals_that_of_torch(
        self, kind: str, half: torch.dtype
    ) -> None:
        """Both have the same distance from the step without autocast."""
        made = self.made(kind)
        exact = self.gradients(made, None)
        own = (self.gradients(made, half) - exact).norm()
        found = (self.gradients(replace_attention(made, "full"), half) - exact).norm()
        assert found < 1.5 * own
        assert own < 0.2 * exact.norm()

    @pytest.mark.parametrize("name", ["sliding_window", "linear", "lsh", "compressed"])
    def test_a_step_of_other_variants_gives_finite_numbers(
        self, kind: str, half: torch.dtype, name: str
    ) -> None:
        made = replace_attention(self.made(kind), small(name))
        exact = self.gradients(made, None)
        assert (self.gradients(made, half) - exact).norm() < 0.2 * exact.norm()


def generated(made: Any, padding: list[list[int]], **options: Any) -> tuple[Tensor, Tensor]:
    """Greedy tokens of 20 steps, and their scores."""
    out = made.generate(
        **tokens(padding),
        max_new_tokens=20,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    return out.sequences, torch.stack(out.scores)


def causal(*, stable: bool) -> list[Attention]:
    made = [small(name) for name in sorted(REGISTRY) if True in REGISTRY[name].info.causal_choices]
    return [attention for attention in made if attention.prefix_stable is stable]


class TestGeneration:
    @pytest.mark.parametrize("kind", ["Llama", "GPTNeoX", "GPT2", "Bart"])
    @pytest.mark.parametrize("padding", [LEFT, NONE], ids=["left", "none"])
    @pytest.mark.parametrize(
        "cache", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str
    )
    def test_full_generates_the_tokens_of_eager_attention(
        self, kind: str, padding: list[list[int]], cache: dict[str, Any]
    ) -> None:
        made = model(kind, "eager")
        expected, scores = generated(made, padding)
        assert len(expected[:, -20:].unique()) > 2
        found, found_scores = generated(replace_attention(made, "full"), padding, **cache)
        assert torch.equal(found, expected)
        close(found_scores, scores)

    @pytest.mark.parametrize("attention", causal(stable=True), ids=lambda a: a.info.name)
    @pytest.mark.parametrize("kind", ["Llama", "GPT2"])
    def test_generation_with_a_cache_equals_generation_without(
        self, kind: str, attention: Attention
    ) -> None:
        made = replace_attention(model(kind), attention)
        expected, scores = generated(made, LEFT, use_cache=False)
        for cache in ({}, {"cache_implementation": "static"}):
            found, found_scores = generated(made, LEFT, **cache)
            assert torch.equal(found, expected)
            close(found_scores, scores)

    @pytest.mark.parametrize("attention", causal(stable=False), ids=lambda a: a.info.name)
    def test_without_a_stable_prefix_a_cache_is_refused(self, attention: Attention) -> None:
        made = replace_attention(model("Llama"), attention)
        name = attention.info.name
        message = (
            f"^{name} in LlamaAttention: its earlier rows change when tokens are added, so it "
            r"cannot continue from a cache \(got 1 queries and 13 keys\); generate with "
            "use_cache=False$"
        )
        with pytest.raises(UnsupportedError, match=message):
            generated(made, LEFT)
        sequences, scores = generated(made, LEFT, use_cache=False)
        again = output(made, input_ids=sequences[1:, :-1])
        assert_close(scores[-1][1], again[0, -1], check_dtype=False)

    def test_several_tokens_at_a_time_with_a_cache(self) -> None:
        made = replace_attention(model("Llama"), small("sliding_window"))
        ids = tokens(length=20)["input_ids"]
        expected = output(made, input_ids=ids)
        # The name of the argument before transformers 5.24, and after.
        known = inspect.signature(made.forward).parameters
        name = "cache" if "cache" in known else "past_key_values"
        cache = made(input_ids=ids[:, :8], use_cache=True)[name]
        for start, stop in ((8, 13), (13, 14), (14, 20)):
            found = made(input_ids=ids[:, start:stop], **{name: cache}, use_cache=True)
            assert_close(found.logits, expected[:, start:stop])


BLOOM = (
    r"^BloomForCausalLM: expected attention through transformers' AttentionInterface; 0 of its "
    r"modules use it, 2 do not, or not with this example: transformer\.h\.0\.self_attention, "
    r"transformer\.h\.1\.self_attention; the model is unchanged$"
)
GEMMA2 = (
    "^full in Gemma2Attention: expected scaled attention that is causal or sees all keys, with "
    "padding; the model also uses softcap$"
)


class TestReplacing:
    @pytest.mark.parametrize(
        ("kind", "message"), [("Gemma2", GEMMA2), ("T5", "T5"), ("Bloom", BLOOM)]
    )
    def test_an_unsupported_model_stays_unchanged(
        self, kind: str, message: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = model(kind, "eager")
        made.get_submodule("").training = True
        call = tokens()
        if kind == "T5":
            call["decoder_input_ids"] = call["input_ids"]
        before, own = output(made, **call), implementations(made)
        names, flags = list(made.state_dict()), [module.training for module in made.modules()]
        with pytest.raises(UnsupportedError, match=message):
            replace_attention(made, "full")
        assert implementations(made) == own
        assert [module.training for module in made.modules()] == flags
        assert torch.equal(output(made, **call), before)
        assert list(made.state_dict()) == names
        assert not caplog.records

    def test_a_model_with_only_some_replaceable_attention_is_refused(self) -> None:
        made = model("Llama")

        class OwnAttention(nn.Module):
            def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
                return hidden_states, None

        made.model.layers[1].self_attn = OwnAttention()
        message = (
            r"1 of its modules use it, 1 do not, or not with this example: "
            r"model.layers.1.self_attn;"
        )
        with pytest.raises(UnsupportedError, match=message):
            replace_attention(made, "full")
        assert implementations(made) == {"sdpa"}

    def test_objects_that_are_no_model_of_transformers_are_refused(self) -> None:
        pytest.importorskip("transformers")
        message = "model must be a transformers.PreTrainedModel; got Linear"
        with pytest.raises(ValueError, match=message):
            replace_attention(nn.Linear(2, 2), "full")
        with pytest.raises(ValueError, match=r"unknown variant 'ful' .*; known variants: "):
            replace_attention(model("Llama"), "ful")
        with pytest.raises(ValueError, match="text such as 'lsh num_hashes=4'; got <class"):
            replace_attention(model("Llama"), REGISTRY["full"])  # type: ignore[arg-type]

    def test_an_invalid_example_is_refused(self) -> None:
        made = model("ViT")
        with pytest.raises(ValueError, match="ViTModel reads pixel_values: pass example, the "):
            replace_attention(made, "full")
        message = "ViTModel could not run on the example, so its attention cannot be checked; pass"
        with pytest.raises(ValueError, match=message):
            replace_attention(made, "full", example={"pixel_values": torch.zeros(1, 2, 3)})
        assert implementations(made) == {"sdpa"}

    @pytest.mark.parametrize("layers", [[0], [1], [2, 0]])
    def test_layers_that_are_not_selected_keep_their_attention(self, layers: list[int]) -> None:
        made = model("Llama", num_hidden_layers=3)
        before = [copy.deepcopy(layer.self_attn) for layer in made.model.layers]
        seen: dict[int, tuple[dict[str, Any], Tensor]] = {}
        replace_attention(made, variants.create("sliding_window", window_size=2), layers=layers)
        for number, layer in enumerate(made.model.layers):

            def keep(_: Any, __: Any, given: Any, out: Any, number: int = number) -> None:
                seen[number] = given, out[0]

            layer.self_attn.register_forward_hook(keep, with_kwargs=True)
        output(made, **tokens())
        for number, (given, out) in seen.items():
            # A module with its own configuration, which uses the sdpa of transformers.
            own = before[number]
            own.config._attn_implementation_internal = "sdpa"
            with torch.no_grad():
                expected = own(**given | {"attention_mask": None})[0]
            if number in layers:
                assert not torch.allclose(out, expected, rtol=0.1)
            else:
                close(out, expected)
        assert sorted(seen) == [0, 1, 2]

    def test_learned_parameters_exist_only_in_the_replaced_layers(self) -> None:
        made = model("Llama")
        replace_attention(made, small("additive"), layers=[1])
        learned = [name for name in made.state_dict() if "attention_parameters" in name]
        assert learned
        assert all(name.startswith("model.layers.1.") for name in learned)

    @pytest.mark.parametrize("layers", [[2], [-1, 0], []])
    def test_layers_that_do_not_exist_are_refused(self, layers: list[int]) -> None:
        made = model("Llama")
        before = output(made, **tokens())
        window = variants.create("sliding_window", window_size=2)
        with pytest.raises(ValueError, match=r"layers must be at least one of 0, 1; got \["):
            replace_attention(made, window, layers=layers)
        assert implementations(made) == {"sdpa"}
        assert torch.equal(output(made, **tokens()), before)

    def test_only_the_attention_changes(self) -> None:
        made = model("Llama").train()
        names, state = list(made.state_dict()), torch.get_rng_state()
        assert replace_attention(made, "sliding_window") is made
        assert implementations(made) == {"sliding_window(window_size=256)"}
        assert all(module.training for module in made.modules())
        assert list(made.state_dict()) == names
        assert torch.equal(torch.get_rng_state(), state)
        made.set_attn_implementation("sdpa")
        assert torch.equal(output(made.eval(), **tokens()), output(model("Llama"), **tokens()))


class TestRefusedCalls:
    """Calls of a model with replaced attention: every option is applied or refused, and never
    ignored."""

    def test_the_sliding_window_of_a_model_is_refused(self) -> None:
        made = replace_attention(model("Mistral"), "full")
        short = tokens(length=8)
        assert_close(output(made, **short), output(model("Mistral"), **short))
        message = (
            r"except for padding from a 2-dimensional attention_mask \(1 = token, 0 = padding\); "
            "the model's own window of 8 tokens hides other keys too, at 12 tokens: use fewer "
            "tokens, or load the model with sliding_window=None$"
        )
        for call in (tokens(), tokens(LEFT)):
            with pytest.raises(UnsupportedError, match=message):
                output(made, **call)
        with pytest.raises(UnsupportedError, match="the model's own window of 8 tokens"):
            made.generate(**short, max_new_tokens=4, do_sample=False)
        free = replace_attention(model("Mistral", sliding_window=None), small("sliding_window"))
        assert bool(output(free, **tokens()).isfinite().all())

    def test_packed_sequences_are_refused(self) -> None:
        made = replace_attention(model("Llama"), "full")
        call = tokens() | {"use_cache": False}
        plain = torch.arange(12).expand(2, -1)
        assert_close(output(made, **call, position_ids=plain), output(made, **call))
        with pytest.raises(UnsupportedError, match="other keys too, at 12 tokens of packed seq"):
            output(made, **call, position_ids=plain % 5)

    @pytest.mark.parametrize("additive", [False, True])
    @pytest.mark.parametrize("padding", [LEFT, RIGHT, NONE], ids=PADDINGS)
    def test_masks_of_all_pairs_are_read_or_refused(
        self, padding: list[list[int]], additive: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A mask that is only causal and padding is accepted like these two."""
        monkeypatch.setattr(pair_masks, "TILE", 24)  # two rows
        made = replace_attention(model("Llama"), small("sliding_window"))
        call = tokens(padding)
        positions = {"position_ids": torch.arange(12)[None]}
        expected = output(made, **call, **positions)
        real = call.pop("attention_mask").bool()
        mask = torch.ones(12, 12, dtype=torch.bool).tril() & real[:, None, None]

        def given(mask: Tensor) -> Tensor:
            if additive:
                lowest = torch.finfo(torch.float64).min
                mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, lowest)
            return output(made, **call, **positions, attention_mask=mask)

        assert_close(given(mask), expected)
        for row, column in ((11, 6), (6, 5), (5, 6)):
            other = mask.clone()
            other[:, :, row, column] ^= True
            with pytest.raises(UnsupportedError, match=r"; got another mask of shape \(2, 1, 12"):
                given(other)
        prefix = mask | (torch.arange(12) < 8) & real[:, None, None]
        with pytest.raises(UnsupportedError, match="got another mask of shape"):
            given(prefix)
        everything = given(torch.ones(2, 1, 12, 12, dtype=torch.bool) & real[:, None, None])
        assert not torch.allclose(everything[1, 7], expected[1, 7], rtol=0.1)
        if additive:
            with pytest.raises(UnsupportedError, match="got a mask that adds numbers to the score"):
                output(made, **call, attention_mask=mask.double())
        with pytest.raises(
            UnsupportedError, match=r"of shape \(2, 1, 12, 9\) for 12 queries and 12"
        ):
            output(made, **call, attention_mask=mask[..., :9])

    def test_dropout_in_training_is_refused(self) -> None:
        made = replace_attention(model("Llama", attention_dropout=0.1).train(), "full")
        message = (
            "^full in LlamaAttention: variants have no dropout of attention weights; the model has "
            r"dropout 0.1 in training, so set its attention dropout to 0 or call model.eval\(\)$"
        )
        with pytest.raises(UnsupportedError, match=message):
            output(made, **tokens())
        expected = output(model("Llama"), **tokens())
        assert_close(output(made.eval(), **tokens()), expected)
        made = replace_attention(model("Llama").train(), "full")
        assert_close(output(made, **tokens()), expected)

    @pytest.mark.parametrize(
        "option",
        [
            "softcap",
            "s_aux",
            "position_bias",
            "head_mask",
            "cu_seq_lens_q",
            "indices",
            "read_index",
            "unheard_of",
        ],
    )
    def test_other_options_of_a_model_are_refused(self, option: str) -> None:
        transformers = pytest.importorskip("transformers")
        function = transformers.AttentionInterface()[attn_implementation("full")]
        module = nn.Module()
        module.is_causal = True  # type: ignore[assignment]
        query = torch.randn(1, HEADS, 6, HEAD_DIM)
        out, weights = function(module, query, query, query, None, **{option: None})
        causal = variants.create("full")(query, query, query, causal=True)
        assert torch.equal(out, causal.transpose(1, 2))
        assert weights is None
        for asked in (torch.ones(HEADS), 30.0):
            with pytest.raises(UnsupportedError, match=f"the model also uses {option}$"):
                function(module, query, query, query, None, **{option: asked})
        with pytest.raises(UnsupportedError, match=r"the model also uses sliding_window$"):
            function(module, query, query, query, None, sliding_window=5)
        with pytest.raises(UnsupportedError, match="got no mask, and the module has no is_caus"):
            function(nn.Module(), query, query, query, None)
        with pytest.raises(
            UnsupportedError, match=r"need values as wide as queries; .* 2 channels"
        ):
            function(module, query, query, query[..., :2], None)
        out, _ = function(module, query, query, query, None, is_causal=False, sliding_window=6)
        everything = variants.create("full")(query, query, query).transpose(1, 2)
        assert torch.equal(out, everything)

    @pytest.mark.parametrize("name", ["cache", "past_key_values"])
    def test_a_cache_that_the_model_has_already_applied(self, name: str) -> None:
        transformers = pytest.importorskip("transformers")
        function = transformers.AttentionInterface()[attn_implementation("full")]
        query = torch.randn(1, HEADS, 6, HEAD_DIM)
        handed = {name: transformers.DynamicCache()}
        out, _ = function(nn.Module(), query, query, query, None, is_causal=True, **handed)
        expected = variants.create("full")(query, query, query, causal=True)
        assert torch.equal(out, expected.transpose(1, 2))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("queries", "first", "keys", "known"),
    [
        (6, 0, 6, 6),
        (1, 5, 6, 6),
        (3, 3, 6, 6),
        (6, 0, 9, 6),
        (1, 5, 9, 6),
        (2, 4, 9, 9),
        (2, 4, 9, 12),
        (2, 4, 6, 3),
    ],
)
def test_a_mask_hides_the_pairs_that_transformers_hides(
    causal: bool, queries: int, first: int, keys: int, known: int
) -> None:
    """With a growing cache, with a cache of fixed size, and with a mask of another length than the
    keys."""
    transformers = pytest.importorskip("transformers")
    masking = transformers.masking_utils
    position = torch.arange(first, first + queries)

    def mask_function(batch: Any, head: Any, query: Tensor, key: Tensor) -> Tensor:
        return key <= query if causal else (key >= 0) & (query >= 0)

    asked: dict[str, Any] = {"batch_size": 2, "kv_length": keys, "mask_function": mask_function}
    if "cache_position" in inspect.signature(masking.sdpa_mask).parameters:
        asked["cache_position"] = position
    else:
        asked |= {"q_length": queries, "q_offset": first}
    name = attn_implementation("full")
    for padding in (None, Tensor([[0] * 2 + [1] * (known - 2), [1] * (known - 1) + [0]]).bool()):
        whole = masking.sdpa_mask(**asked, attention_mask=padding, allow_is_causal_skip=False)
        mask = transformers.AttentionMaskInterface()[name](**asked, attention_mask=padding)
        query, key = torch.ones(2, 1, queries, 1), torch.ones(2, 1, keys, 1)
        sight = read_mask(mask, query, key, causal=causal)
        assert sight.causal is causal
        shown = torch.zeros(2, queries, keys, dtype=torch.bool)
        stands = torch.arange(queries)[:, None] + sight.key_len - queries
        past = torch.arange(sight.key_len) <= stands
        shown[:, :, : sight.key_len] = past if causal else True
        if sight.padding is not None:
            shown[:, :, : sight.key_len] &= ~sight.padding[:, None]
        assert torch.equal(shown, whole.expand(2, 1, -1, -1)[:, 0])
        assert (sight.padding is None) == bool(whole[:, 0, -1, : sight.key_len].all())


def test_empty_slots_of_a_cache_are_no_keys() -> None:
    """The model makes a mask of all pairs for a cache of nine slots with six in use."""
    key = torch.ones(2, 1, 9, 1)
    for queries in (1, 3, 6):
        mask = torch.ones(6, 9, dtype=torch.bool).tril()[-queries:].repeat(2, 1, 1, 1)
        mask[0, :, :, :2] = False
        causal, key_len, padding = read_mask(mask, torch.ones(2, 1, queries, 1), key, causal=True)
        assert (causal, key_len) == (True, 6)
        assert padding is not None
        assert padding.tolist() == [[True] * 2 + [False] * 4, [False] * 6]


def test_a_mask_of_one_row_is_not_compared_with_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_masks, "mask_kinds", None)
    mask = Tensor(RIGHT)[:, None, None].bool()
    query = torch.ones(2, 1, 5, 1)
    for causal in (True, False, None):
        sight = read_mask(mask, query, torch.ones(2, 1, 12, 1), causal=causal)
        assert sight[:2] == (False, 12)
        assert sight.padding is not None
        assert torch.equal(sight.padding, ~mask[:, 0, 0])


@pytest.mark.parametrize("inference", [False, True])
def test_the_values_of_a_mask_are_read_when_it_is_made(inference: bool) -> None:
    """Reading them in each layer would wait for a GPU each time."""
    transformers = pytest.importorskip("transformers")
    make = transformers.AttentionMaskInterface()[attn_implementation("full")]
    asked: dict[str, Any] = {"batch_size": 2, "kv_length": 12}
    asked["mask_function"] = transformers.masking_utils.causal_mask_function
    asked |= {"q_length": 12, "q_offset": 0}
    query = torch.ones(2, 1, 12, 1)
    with torch.inference_mode(inference):
        for attention_mask in (None, Tensor(NONE), Tensor(RIGHT)):
            mask = make(**asked, attention_mask=attention_mask)
            with NoReads():
                sight = read_mask(mask, query, query, causal=True)
            hidden = attention_mask is not None and not attention_mask.all()
            assert (sight.padding is not None) == hidden
        if not inference:
            mask = make(**asked)
            mask[0, 0, 3] = False  # a mask that was written to is read again
            sight = read_mask(mask, query, query, causal=True)
            assert sight.padding is not None
            assert sight.padding[0, 3]


class NoReads(TorchDispatchMode):
    """Refuses to read a number of a tensor."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is created inside."""

    numel = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes():
                self.numel = max(self.numel, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("window", [None, 10_000])
def test_no_mask_of_all_pairs_is_created(padded: bool, window: int | None) -> None:
    """Neither if the mask is known nor if its values must be read."""
    changes = {"max_position_embeddings": 8192, "num_hidden_layers": 1, "sliding_window": window}
    made = replace_attention(model("Mistral", **changes), variants.create("linear")).float()
    call = tokens([[0] * 100 + [1] * 7900, [1] * 8000] if padded else None, length=8000)
    with Largest() as largest:
        made.model(**call, use_cache=False)
    assert largest.numel < 8000 * 8000 / 4
    made.set_attn_implementation("eager")
    with Largest() as largest:
        made.model(input_ids=call["input_ids"][:, :2000])
    assert largest.numel > 2000 * 2000, "a mask of all pairs was not recorded"


LEARNERS = [
    attention
    for attention in causal(stable=True) + causal(stable=False)
    if attention.init_parameters(HEADS, HEAD_DIM)
]


class TestLearnedTensors:
    @pytest.mark.parametrize("attention", LEARNERS, ids=lambda a: a.info.name)
    def test_learned_parameters_are_trained_with_the_model(self, attention: Attention) -> None:
        made = model("Llama")
        made.set_attn_implementation(attn_implementation(attention))
        expected = output(made, **tokens())
        before = set(made.state_dict())
        replace_attention(made, attention)
        assert torch.equal(output(made, **tokens()), expected)
        added = {name: made.get_parameter(name) for name in set(made.state_dict()) - before}
        seeded = attention.init_parameters(HEADS, HEAD_DIM)
        assert set(added) == {
            f"model.layers.{layer}.self_attn.attention_parameters.{name}"
            for layer in (0, 1)
            for name in seeded
        }
        ids = tokens()["input_ids"]
        made(input_ids=ids, labels=ids).loss.backward()
        for parameter in added.values():
            assert parameter.grad is not None
            assert bool(parameter.grad.any())
            with torch.no_grad():
                parameter.sub_(parameter.grad, alpha=0.1)
        trained = output(made, **tokens())
        assert not torch.equal(trained, expected)

        again = replace_attention(model("Llama"), attention)
        again.load_state_dict(made.state_dict())
        assert torch.equal(output(again, **tokens()), trained)
        assert torch.equal(output(copy.deepcopy(made), **tokens()), trained)
        # A second call keeps the learned parameters; another attention removes them.
        assert torch.equal(output(replace_attention(made, attention), **tokens()), trained)
        replace_attention(made, "full")
        assert set(made.state_dict()) == before
        assert_close(output(made, **tokens()), output(model("Llama"), **tokens()))


class TestNames:
    def test_every_setting_has_a_name_that_transformers_accepts(self) -> None:
        made = model("Llama")
        names = set()
        attentions = [
            dataclasses.replace(attention, implementation=implementation)
            for name in REGISTRY
            for attention in variants.grid(name)
            for implementation in ("auto", *attention.info.implementations)
        ]
        for attention in attentions:
            name = attn_implementation(attention)
            names.add(name)
            made.set_attn_implementation(name)
            assert implementations(made) == {name}
        assert len(names) == len(set(attentions))
        assert attn_implementation("full") == "full()"

    def test_models_can_be_created_with_the_name(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        window = small("sliding_window")
        made = model("Llama")
        made.save_pretrained(tmp_path)
        expected = output(replace_attention(made, window), **tokens())
        name = attn_implementation(window, "my window")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, attn_implementation=name, dtype=torch.float64
        )
        assert implementations(loaded) == {"my window"}
        assert torch.equal(output(loaded, **tokens()), expected)
        fresh = transformers.AutoModelForCausalLM.from_config(
            made.config, attn_implementation=attn_implementation(window)
        )
        fresh.load_state_dict(made.state_dict())
        assert torch.equal(output(fresh.double().eval(), **tokens()), expected)

    def test_invalid_names_are_refused(self) -> None:
        pytest.importorskip("transformers")
        for name in ("sdpa", "my/attention", "Flash", "paged|mine"):
            with pytest.raises(
                ValueError, match=f"^name must contain none of .*got '{name.replace('|', '.')}'"
            ):
                attn_implementation("full", name)
        assert attn_implementation("full", "ours") == "ours"
        assert attn_implementation("full", "ours") == "ours"
        with pytest.raises(
            ValueError, match=r"^name 'ours' is already in use for .*Full.*; pass another name$"
        ):
            attn_implementation("linear", "ours")


def test_without_transformers_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = (
        "^attention of pretrained models needs transformers of at least version 4.56, which is not "
        "installed; run: pip install 'transformers>=4.56'$"
    )
    with pytest.raises(ImportError, match=message):
        attn_implementation("full")
    with pytest.raises(ImportError, match=message):
        replace_attention(nn.Linear(2, 2), "full")
