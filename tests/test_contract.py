"""What every registered variant must do. A new file in `variants/` is tested here without an edit.

The variants are never named: hyperparameters come from the fields of each class, and a property
applies where `info.supports` and `target` say so. A variant is judged against its own `weights`;
that these are the right ones for a known method is the business of `test_dense_definitions`.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import random
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import variants
from variants import REGISTRY, Attention, UnsupportedError
from variants.contract.attention import Parameters
from variants.contract.registry import Info
from variants.engines.primitives import head_slabs

# Compiled for seconds at every shape, and so tested apart, on a few shapes: `test_flex`.
COMPILED = {"flex"}

HALF = (torch.float16, torch.bfloat16)
CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)


def small_settings(name: str) -> dict[str, Any]:
    """Values that cut a few dozen tokens into many pieces, as the variant declares them."""
    return {known.name: known.small for known in variants.hyperparameters(name)}


def settings(name: str) -> dict[str, dict[str, Any]]:
    """Small hyperparameters; the smallest allowed; the defaults; and each other choice or flag."""
    declared = variants.hyperparameters(name)
    small = small_settings(name)
    defaults = {known.name: known.default for known in declared}
    minima = {known.name: known.minimum for known in declared if known.minimum is not None}
    found = {"small": small, "minimum": defaults | minima, "defaults": defaults}
    for known in declared:
        others = [True, False] if known.type is bool else known.choices or ()
        for other in others:
            if other != known.default:
                found[f"{known.name}={other}"] = small | {known.name: other}
    distinct: dict[str, dict[str, Any]] = {}
    for label, chosen in found.items():
        if chosen not in distinct.values():
            distinct[label] = chosen
    return distinct


def attentions(
    *labels: str, where: Callable[[Attention], bool] = lambda attention: True
) -> list[Any]:
    """A pytest parameter for each setting of each variant; only some settings if `labels` says."""
    return [
        pytest.param(attention, id=f"{name}-{label}")
        for name in sorted(REGISTRY)
        for label, chosen in settings(name).items()
        if not labels or label in labels or "=" in label
        if where(attention := variants.create(name, **chosen))
    ]


def supports(*words: str) -> Callable[[Attention], bool]:
    return lambda attention: set(words) <= attention.info.supports


def plainly(attention: Attention) -> Callable[..., Tensor]:
    """The variant as a function of query, key and value."""
    return partial(attention, causal=attention.info.causal_choices[0])


def has_seed(attention: Attention) -> bool:
    return any(field.name == "seed" for field in dataclasses.fields(attention))


def fresh_draws(attention: Attention, seed: int) -> Attention:
    """The same variant with a seed nobody used before, so that nothing comes from a cache."""
    return dataclasses.replace(attention, seed=seed) if has_seed(attention) else attention


@dataclass(frozen=True)
class Shape:
    batch: int
    heads: int
    kv_heads: int
    query_len: int
    key_len: int
    head_dim: int = 8
    scale: float | None = None

    def tensors(
        self, dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu"
    ) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        query_shape = (self.batch, self.heads, self.query_len, self.head_dim)
        key_shape = (self.batch, self.kv_heads, self.key_len, self.head_dim)
        return tuple(
            torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
            for shape in (query_shape, key_shape, key_shape)
        )

    def padding(self, device: str = "cpu") -> Tensor:
        """The first sequence has holes (its first key among them), the second is all padding."""
        generator = torch.Generator().manual_seed(1)
        mask = torch.rand(self.batch, self.key_len, generator=generator) < 0.3
        mask[:, 0] = self.key_len > 1
        mask[:, -1] = False
        mask[1:2] = True
        return mask.to(device)

    def distance_bias(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
        """Of the size of scores, another for each head and distance."""
        generator = torch.Generator().manual_seed(3)
        shape = (self.heads, self.query_len + self.key_len - 1)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


SHAPES = {
    "one token": Shape(2, 2, 2, 1, 1),
    "odd length, grouped heads": Shape(3, 4, 2, 37, 37, head_dim=6),
    "long, explicit scale": Shape(1, 2, 2, 300, 300, scale=0.3),
    "more keys than queries": Shape(2, 4, 2, 30, 37),
    "more queries than keys": Shape(2, 2, 1, 40, 9, scale=0.5),
    "one query of many keys": Shape(2, 2, 2, 1, 37),
}
ODD = SHAPES["odd length, grouped heads"]
SQUARE = Shape(2, 2, 2, 150, 150)


def calls(attention: Attention, shape: Shape) -> list[dict[str, Any]]:
    """The argument combinations that the variant supports at this shape; none if not the shape."""
    if shape.query_len != shape.key_len and not supports("cross_attention")(attention):
        return []
    return [
        {"causal": causal, "key_padding_mask": shape.padding() if padded else None}
        for causal in attention.info.causal_choices
        for padded in (False, True)
        if not padded or supports("key_padding_mask")(attention)
    ]


def attentions_and_shapes(shapes: Sequence[str]) -> list[Any]:
    return [
        pytest.param(attention.values[0], SHAPES[name], id=f"{attention.id}-{name}")
        for attention in attentions()
        for name in shapes
        if calls(attention.values[0], SHAPES[name])
    ]


def for_each_head(tensor: Tensor, heads: int) -> Tensor:
    """Keys or values as each query head reads them: head h reads h // (heads // kv_heads)."""
    group = heads // tensor.shape[1]
    return torch.stack([tensor[:, head // group] for head in range(heads)], dim=1)


def own_answer(
    attention: Attention, query: Tensor, key: Tensor, value: Tensor, **call: Any
) -> Tensor:
    """What the variant's own definition says."""
    return attention.weights(query, key, **call) @ for_each_head(value, query.shape[1])


def with_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], cotangent: Tensor | None = None
) -> list[Tensor]:
    """The output of `function(*inputs)`, then the gradient of each input."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = function(*leaves)
    if cotangent is None:
        generator = torch.Generator().manual_seed(2)
        cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad(
        out, leaves, cotangent.to(out), allow_unused=True, materialize_grads=True
    )
    return [out.detach(), *grads]


def assert_same_answers(
    attention: Attention, reference: Attention, shape: Shape, call: dict[str, Any]
) -> None:
    """Kernel of `attention` against the definition of `reference`, gradients included, that of a
    `distance_bias` in the call among them."""
    query, key, value = shape.tensors()
    call = {"scale": shape.scale, **call}
    if "backward" not in attention.info.supports:
        assert_close(
            attention(query, key, value, **call),
            own_answer(reference, query, key, value, **call),
        )
        return
    learned = attention.init_parameters(shape.heads, shape.head_dim)
    names = list(learned)
    biases = [] if call.get("distance_bias") is None else [call["distance_bias"]]

    def with_parameters(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(query: Tensor, key: Tensor, value: Tensor, *tensors: Tensor) -> Tensor:
            given = {**call, "parameters": None}
            if names:
                given["parameters"] = dict(zip(names, tensors, strict=False))
            if biases:
                given["distance_bias"] = tensors[-1]
            return function(query, key, value, **given)

        return run

    inputs = (query, key, value, *(tensor.double() for tensor in learned.values()), *biases)
    found = with_gradients(with_parameters(attention), inputs)
    expected = with_gradients(
        with_parameters(lambda *tensors, **call: own_answer(reference, *tensors, **call)), inputs
    )
    labels = ["output", "query gradient", "key gradient", "value gradient", *names]
    labels += ["bias gradient"] * len(biases)
    for label, mine, right in zip(labels, found, expected, strict=True):
        assert_close(mine, right, msg=lambda text, label=label: f"{label} ({call}): {text}")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and threads that await each other cost minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- The kernel computes what the variant's own definition says.


@pytest.mark.parametrize(("attention", "shape"), attentions_and_shapes(list(SHAPES)))
def test_output_and_gradients_equal_own_weights_times_value(
    attention: Attention, shape: Shape
) -> None:
    for call in calls(attention, shape):
        assert_same_answers(attention, attention, shape, call)


@pytest.mark.parametrize(
    ("attention", "shape"), attentions_and_shapes(["odd length, grouped heads"])
)
def test_every_named_implementation_agrees(attention: Attention, shape: Shape) -> None:
    """An implementation may refuse a combination, but not all of them."""
    for name in set(attention.info.implementations) - COMPILED:
        named = dataclasses.replace(attention, implementation=name)
        if named.unavailable(name, torch.device("cpu")) is not None:
            continue
        ran = 0
        for call in calls(attention, shape):
            with suppress(UnsupportedError):
                assert_same_answers(named, attention, shape, call)
                ran += 1
        assert ran, f"{name} is available and refuses every call"


@pytest.mark.parametrize("attention", attentions("small"))
def test_an_implementation_that_is_not_here_says_why(attention: Attention) -> None:
    query, key, value = ODD.tensors()
    for name in attention.info.implementations:
        named = dataclasses.replace(attention, implementation=name)
        reason = named.unavailable(name, query.device)
        if reason is None:
            assert named.choose_implementation(query, key) == name
            continue
        expected = f"{attention.info.name}: .*{name}.*{re.escape(reason)}"
        with pytest.raises(UnsupportedError, match=expected):
            plainly(named)(query, key, value)


@pytest.mark.parametrize("attention", attentions())
def test_the_automatic_implementation_is_one_that_runs_here(attention: Attention) -> None:
    query, key, _ = ODD.tensors()
    chosen = attention.choose_implementation(query, key)
    assert chosen in attention.info.implementations
    assert attention.unavailable(chosen, query.device) is None


@pytest.mark.parametrize(
    ("attention", "shape"),
    attentions_and_shapes(["odd length, grouped heads", "more keys than queries"]),
)
def test_rows_of_weights_are_rows_of_all_weights(attention: Attention, shape: Shape) -> None:
    query, key, _ = shape.tensors()
    rows = torch.tensor([shape.query_len - 1, 0, 7, 7, 19])
    for call in calls(attention, shape):
        whole = attention.weights(query, key, **call)
        assert whole.shape == (shape.batch, shape.heads, shape.query_len, shape.key_len)
        some = attention.weights(query, key, rows=rows, **call)
        assert_close(some, whole[:, :, rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("attention", "shape"),
    attentions_and_shapes(["odd length, grouped heads", "more queries than keys"]),
)
def test_weights_are_zero_where_nothing_may_be_seen(attention: Attention, shape: Shape) -> None:
    query, key, _ = shape.tensors()
    for call in calls(attention, shape):
        weights = attention.weights(query, key, **call)
        assert bool(weights.isfinite().all())
        assert_close(weights, weights * may_see(shape, call), rtol=0, atol=0)


@pytest.mark.parametrize("attention", attentions(where=lambda attention: attention.convex))
def test_weights_are_not_negative_and_a_row_sums_to_one_or_is_empty(attention: Attention) -> None:
    query, key, _ = ODD.tensors()
    for call in calls(attention, ODD):
        weights = attention.weights(query, key, **call)
        assert bool((weights >= 0).all())
        total = weights.sum(-1)
        assert_close(total, (weights > 0).any(-1).double())
        assert bool((total[0] > 0).any())


def may_see(shape: Shape, call: dict[str, Any]) -> Tensor:
    """Bool (batch, 1, query_len, key_len), from the definition of positions alone."""
    allowed = torch.ones(shape.batch, 1, shape.query_len, shape.key_len, dtype=torch.bool)
    if call["causal"]:
        for row in range(shape.query_len):
            allowed[:, :, row, max(0, row + shape.key_len - shape.query_len + 1) :] = False
    if call["key_padding_mask"] is not None:
        allowed &= ~call["key_padding_mask"][:, None, None, :]
    return allowed


@pytest.mark.parametrize(
    ("attention", "shape"),
    [
        case
        for case in attentions_and_shapes(list(SHAPES))
        if case.values[0].useful_pairs(1, 1, causal=False) is not None
    ],
)
def test_useful_pairs_are_the_pairs_with_weight(attention: Attention, shape: Shape) -> None:
    """Per head, on the mean over eight of them, as heads may draw differently."""
    query = torch.zeros(1, 8, shape.query_len, 2, dtype=torch.float64)
    key = torch.zeros(1, 8, shape.key_len, 2, dtype=torch.float64)
    for causal in {call["causal"] for call in calls(attention, shape)}:
        weights = attention.weights(query, key, causal=causal)
        pairs = attention.useful_pairs(shape.query_len, shape.key_len, causal=causal)
        assert pairs == pytest.approx(float((weights > 0).sum()) / 8)


@pytest.mark.parametrize("attention", attentions())
def test_useful_operations_grow_with_batch_and_heads(attention: Attention) -> None:
    for causal in {call["causal"] for call in calls(attention, SQUARE)}:
        flops = attention.useful_flops(1, 8, 300, 300, 16, causal=causal)
        if flops is None:
            pytest.skip("states no operation count")
        assert 0 < flops < math.inf
        twice = attention.useful_flops(2, 8, 300, 300, 16, causal=causal)
        assert twice == pytest.approx(2 * flops)
        assert attention.useful_flops(1, 8, 600, 600, 16, causal=causal) > flops


# The sizes of the pieces into which the engines cut the work; a result must not show them.
PIECES = (
    "SCORES_CPU",
    "LARGE_HEAD",
    "CHUNK",
    "CHUNKS",
    "DEPTH",
    "ROWS",
    "DENSE_ROWS",
)


@pytest.mark.parametrize(
    ("attention", "shape"),
    attentions_and_shapes(["odd length, grouped heads", "long, explicit scale"]),
)
def test_result_does_not_depend_on_how_the_work_is_cut(
    attention: Attention, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in pkgutil.walk_packages(variants.__path__, "variants."):
        module = importlib.import_module(package.name)
        for size in PIECES:
            if hasattr(module, size):
                monkeypatch.setattr(module, size, 7)
    for call in calls(attention, shape):
        assert_same_answers(attention, attention, shape, call)
        if supports("distance_bias")(attention):
            biased = {**call, "distance_bias": shape.distance_bias()}
            assert_same_answers(attention, attention, shape, biased)


# --- A bias by distance, where it is declared.


def biased(shapes: Sequence[str]) -> list[Any]:
    """Attentions that take a bias, and shapes."""
    return [p for p in attentions_and_shapes(shapes) if supports("distance_bias")(p.values[0])]


@pytest.mark.parametrize(("attention", "shape"), biased(list(SHAPES)))
def test_with_a_bias_output_and_gradients_equal_own_weights_times_value(
    attention: Attention, shape: Shape
) -> None:
    for call in calls(attention, shape):
        call["distance_bias"] = shape.distance_bias()
        assert_same_answers(attention, attention, shape, call)


@pytest.mark.parametrize(("attention", "shape"), biased(list(SHAPES)))
def test_a_bias_multiplies_weights_by_its_exponential(attention: Attention, shape: Shape) -> None:
    """The definition with a bias from the one without, entry by entry as the contract says."""
    query, key, _ = shape.tensors()
    bias = shape.distance_bias()
    factor = torch.empty(shape.heads, shape.query_len, shape.key_len, dtype=torch.float64)
    for i in range(shape.query_len):
        for j in range(shape.key_len):
            factor[:, i, j] = bias[:, j - i + shape.query_len - 1].exp()
    for call in calls(attention, shape):
        changed = attention.weights(query, key, **call) * factor
        total = changed.sum(-1, keepdim=True)
        expected = changed / total.where(total > 0, 1.0)
        found = attention.weights(query, key, distance_bias=bias, **call)
        assert_close(found, expected)
        rows = torch.tensor([shape.query_len - 1, 0])
        some = attention.weights(query, key, distance_bias=bias, rows=rows, **call)
        assert_close(some, expected[:, :, rows])


@pytest.mark.parametrize(("attention", "shape"), biased(["odd length, grouped heads"]))
def test_every_named_implementation_serves_a_bias_or_says_that_it_takes_none(
    attention: Attention, shape: Shape
) -> None:
    """Kernels that are not here are asked past the check that they are."""
    call = {"distance_bias": shape.distance_bias()}
    served, refused = set(), {}
    for name in attention.info.implementations:
        named = dataclasses.replace(attention, implementation=name)
        here = named.unavailable(name, torch.device("cpu")) is None
        try:
            if here:
                assert_same_answers(named, attention, shape, call)
            else:
                named.attend(
                    *shape.tensors(),
                    causal=False,
                    key_padding_mask=None,
                    **named.arguments(shape.tensors()[0], None, None, **call),
                )
        except UnsupportedError as error:
            refused[name] = str(error)
        else:
            served.add(name)
    assert attention.info.implementations[0] in served
    assert refused == {name: f"implementation {name!r} takes no distance_bias" for name in refused}


@pytest.mark.parametrize(
    ("attention", "shape"), biased(["odd length, grouped heads", "more queries than keys"])
)
def test_a_constant_bias_changes_nothing(attention: Attention, shape: Shape) -> None:
    """Each head has a constant of its own, and the mean stays the mean."""
    if not attention.convex:
        pytest.skip("its weights form no mean")
    inputs = shape.tensors()
    entries = shape.query_len + shape.key_len - 1
    constant = torch.arange(shape.heads, dtype=torch.float64)[:, None] * 3 - 2
    for call in calls(attention, shape):
        plain = with_gradients(lambda *x, call=call: attention(*x, **call), inputs)
        bias = constant.expand(-1, entries)
        found = with_gradients(
            lambda *x, call=call: attention(*x[:3], distance_bias=x[3], **call), (*inputs, bias)
        )
        for mine, right in zip(found, plain, strict=False):
            assert_close(mine, right)
        # What a row's bias gains one of its keys, another one loses.
        assert_close(found[4].sum(-1), torch.zeros(shape.heads, dtype=torch.float64))


@pytest.mark.parametrize(("attention", "shape"), biased(["odd length, grouped heads"]))
def test_a_causal_call_reads_no_bias_of_later_keys(attention: Attention, shape: Shape) -> None:
    if not supports("causal")(attention):
        pytest.skip("does not support causal")
    inputs = *shape.tensors(), shape.distance_bias()
    changed = inputs[3].clone()
    changed[:, shape.key_len :] = -1e9

    def attend(*x: Tensor) -> Tensor:
        return attention(*x[:3], causal=True, distance_bias=x[3])

    found = with_gradients(attend, inputs)
    assert torch.equal(found[0], attend(*inputs[:3], changed))
    assert not found[4][:, shape.key_len :].any()


@pytest.mark.parametrize("given", ["inputs", "bias"])
@pytest.mark.parametrize(("attention", "shape"), biased(["odd length, grouped heads"]))
def test_a_gradient_may_be_wanted_of_the_bias_alone_or_of_all_else(
    attention: Attention, shape: Shape, given: str
) -> None:
    *inputs, bias = *shape.tensors(), shape.distance_bias()
    everything = with_gradients(lambda *x: attention(*x[:3], distance_bias=x[3]), (*inputs, bias))
    if given == "inputs":
        found = with_gradients(lambda *x: attention(*x, distance_bias=bias), inputs)
        expected = everything[:4]
    else:
        found = with_gradients(lambda x: attention(*inputs, distance_bias=x), [bias])
        expected = [everything[0], everything[4]]
    for mine, right in zip(found, expected, strict=True):
        assert torch.equal(mine, right)


# --- Properties of any attention that ends in a weighted mean.


@pytest.mark.parametrize(
    ("attention", "shape"),
    attentions_and_shapes(["odd length, grouped heads", "more queries than keys"]),
)
def test_a_constant_value_gives_that_constant(attention: Attention, shape: Shape) -> None:
    """Wherever a row sees something. Catches padding inside a kernel that carries weight."""
    query, key, value = shape.tensors()
    constant = value[:, :, :1].expand_as(value)
    seen = 0
    for call in calls(attention, shape):
        weights = attention.weights(query, key, **call)
        rows = (weights != 0).any(-1)
        # What forms no mean gives the constant times the sum of its weights.
        total = rows.double() if attention.convex else weights.sum(-1)
        expected = for_each_head(constant, shape.heads)[:, :, :1] * total[..., None]
        assert_close(attention(query, key, constant, **call), expected)
        seen += int(rows.sum())
    assert seen


@pytest.mark.parametrize(
    "attention",
    # A query of zeros scores every key alike, so softmax is uniform. A random estimate of softmax,
    # which equals it at no setting (`exact_when` is None), still weighs keys by its random
    # features, whose sum over directions depends on the key; only its mean is uniform.
    attentions(
        where=lambda attention: (
            attention.target in ("softmax", "masked_softmax")
            and attention.info.exact_when is not None
            and attention.convex
        )
    ),
)
def test_a_zero_query_gives_the_mean_of_what_is_visible(attention: Attention) -> None:
    query, key, value = ODD.tensors()
    query = torch.zeros_like(query)
    for call in calls(attention, ODD):
        visible = attention.weights(query, key, **call) > 0
        if attention.target == "softmax":
            assert bool((visible == may_see(ODD, call)).all())
        uniform = visible.double() / visible.sum(-1, keepdim=True).clamp(min=1)
        expected = uniform @ for_each_head(value, ODD.heads)
        assert_close(attention(query, key, value, **call), expected)


@pytest.mark.parametrize(
    "shape",
    [ODD, SQUARE, SHAPES["more keys than queries"], SHAPES["more queries than keys"]],
    ids=["grouped heads", "square", "more keys", "more queries"],
)
@pytest.mark.parametrize(
    "name", [name for name in sorted(REGISTRY) if REGISTRY[name].info.exact_when is not None]
)
def test_exact_when_hyperparameters_make_it_softmax_attention(name: str, shape: Shape) -> None:
    attention = variants.create(name, **REGISTRY[name].info.exact_when)
    query, key, value = shape.tensors()
    for call in calls(attention, shape):
        scores = (query / math.sqrt(shape.head_dim)) @ for_each_head(key, shape.heads).mT
        kernel = (scores.exp() * may_see(shape, call)).nan_to_num()
        total = kernel.sum(-1, keepdim=True)
        weights = torch.where(total > 0, kernel / total, 0)
        assert_close(
            attention(query, key, value, **call), weights @ for_each_head(value, shape.heads)
        )
        assert_close(attention.weights(query, key, **call), weights)


# --- Nothing of the future, nothing of the padding, nothing of a neighbour.


@pytest.mark.parametrize("attention", attentions(where=supports("causal")))
@pytest.mark.parametrize(
    ("shape", "last_rows"),
    [(SQUARE, (0, 63, 64, 127, 148)), (SHAPES["more keys than queries"], (0, 11, 28))],
    ids=["square", "more keys"],
)
def test_causal_output_ignores_the_future(
    attention: Attention, shape: Shape, last_rows: Sequence[int]
) -> None:
    if not calls(attention, shape):
        pytest.skip("does not support cross_attention")
    inputs = shape.tensors()
    others = shape.tensors(seed=3)
    before = attention(*inputs, causal=True)
    weights = attention.weights(*inputs[:2], causal=True)
    reached = False
    for row in last_rows:
        for change in (lambda old, new: old * 50, lambda old, new: new):
            changed = []
            for tensor, other in zip(inputs, others, strict=True):
                # Queries, keys and values of one token change together.
                first = row + 1 + tensor.shape[2] - shape.query_len
                late = tensor.clone()
                late[:, :, first:] = change(tensor, other)[:, :, first:]
                changed.append(late)
            after = attention(*changed, causal=True)
            kept = slice(None, row + 1)
            assert_close(after[:, :, kept], before[:, :, kept], rtol=1e-12, atol=1e-12)
            reached |= not torch.equal(after[:, :, row + 1 :], before[:, :, row + 1 :])
            after = attention.weights(*changed[:2], causal=True)
            assert_close(after[:, :, kept], weights[:, :, kept], rtol=1e-12, atol=1e-12)
    assert reached, "the changes reached no row at all"


@pytest.mark.parametrize("attention", attentions(where=supports("causal", "cross_attention")))
def test_causal_rows_outlive_added_tokens_if_it_says_so(attention: Attention) -> None:
    """Neither the keys that follow nor the queries asked along with a row change it."""
    query, key, value = SQUARE.tensors()
    padding = SQUARE.padding()
    padding[:, :20] = True
    padding[1, 20:] = False
    changed = False
    for hidden in (None, padding) if supports("key_padding_mask")(attention) else (None,):
        whole = attention(query, key, value, causal=True, key_padding_mask=hidden)
        for first, last in ((0, 1), (0, 30), (0, 149), (40, 64), (90, 91), (113, 150), (149, 150)):
            part = attention(
                query[:, :, first:last],
                key[:, :, :last],
                value[:, :, :last],
                causal=True,
                key_padding_mask=None if hidden is None else hidden[:, :last],
            )
            if attention.prefix_stable:
                assert_close(part, whole[:, :, first:last], rtol=1e-9, atol=1e-9)
            changed |= not torch.allclose(part, whole[:, :, first:last], rtol=1e-3)
    if attention == variants.create(attention.info.name, **small_settings(attention.info.name)):
        assert changed != attention.prefix_stable, "it says that rows change, and none does"


@pytest.mark.parametrize("attention", attentions(where=supports("causal")))
def test_a_huge_last_token_does_not_reach_earlier_outputs_through_rounding(
    attention: Attention,
) -> None:
    """In float32 a stabiliser shared by the whole sequence would show."""
    query, key, value = SQUARE.tensors(torch.float32)
    before = attention(query, key, value, causal=True)
    key[:, :, -1] *= 1e3
    value[:, :, -1] *= 1e3
    after = attention(query, key, value, causal=True)
    assert bool(after.isfinite().all())
    assert_close(after[:, :, :-1], before[:, :, :-1])


@pytest.mark.parametrize("dtype", [torch.float64, *HALF], ids=str)
@pytest.mark.parametrize("attention", attentions(where=supports("key_padding_mask")))
def test_what_padding_holds_does_not_matter(attention: Attention, dtype: torch.dtype) -> None:
    query, key, value = ODD.tensors(dtype)
    padding = ODD.padding()[:, None, :, None].expand_as(key)
    assert bool(padding[0, 0, 0].all())
    run = with_gradients if "backward" in attention.info.supports else lambda f, x: [f(*x)]
    for call in calls(attention, ODD):
        if call["key_padding_mask"] is None:
            continue
        answers = []
        for key_filler, value_filler in ((0.5, -0.5), (1e4, 1e4), (math.nan, math.nan)):
            inputs = (
                query,
                torch.where(padding, key_filler, key),
                torch.where(padding, value_filler, value),
            )
            answers.append(run(lambda *x, call=call: attention(*x, **call), inputs))
        for tensor in answers[0]:
            assert bool(tensor.isfinite().all())
        for grad in answers[0][2:]:
            assert not grad[padding].any()
        for other in answers[1:]:
            for mine, right in zip(other, answers[0], strict=True):
                assert_close(mine, right, rtol=0, atol=0)


@pytest.mark.parametrize("attention", attentions(where=supports("key_padding_mask")))
def test_a_fully_padded_sequence_gives_zero_with_zero_gradient(attention: Attention) -> None:
    query, key, value = ODD.tensors()
    run = with_gradients if "backward" in attention.info.supports else lambda f, x: [f(*x)]
    for call in calls(attention, ODD):
        if call["key_padding_mask"] is None:
            continue
        answers = run(lambda *x, call=call: attention(*x, **call), (query, key, value))
        assert bool(answers[0][0].any())
        for tensor in answers:
            assert not tensor[1].any()
        assert not attention.weights(query, key, **call)[1].any()


@pytest.mark.parametrize("attention", attentions())
def test_sequences_of_a_batch_do_not_know_of_each_other(attention: Attention) -> None:
    query, key, value = ODD.tensors()
    for call in calls(attention, ODD):
        mask = call["key_padding_mask"]
        whole = attention(query, key, value, **call)
        order = torch.tensor([2, 0, 1])
        shuffled = attention(
            query[order],
            key[order],
            value[order],
            causal=call["causal"],
            key_padding_mask=None if mask is None else mask[order],
        )
        assert_close(shuffled, whole[order], rtol=1e-12, atol=1e-12)
        alone = attention(
            query[:1],
            key[:1],
            value[:1],
            causal=call["causal"],
            key_padding_mask=None if mask is None else mask[:1],
        )
        assert_close(alone, whole[:1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", attentions())
def test_heads_do_not_know_of_each_other(attention: Attention) -> None:
    """Draws may differ from head to head, so heads are changed rather than permuted."""
    inputs = ODD.tensors()
    others = ODD.tensors(seed=3)
    before = plainly(attention)(*inputs)
    group = ODD.heads // ODD.kv_heads
    changed = [x.clone() for x in inputs]
    changed[0][:, :group] = others[0][:, :group]
    for which in (1, 2):
        changed[which][:, 0] = 50 * others[which][:, 0]
    after = plainly(attention)(*changed)
    assert_close(after[:, group:], before[:, group:], rtol=1e-12, atol=1e-12)
    assert not torch.equal(after[:, :group], before[:, :group])


# --- A call leaves nothing behind and depends on nothing but its arguments.


def generators() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002 (the state to leave alone)
        "python": random.getstate(),
    }


def switches() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "route of float32 products": torch.backends.mkldnn.matmul.fp32_precision,
        "grad mode": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fused kernels": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.cudnn_sdp_enabled(),
        ),
    }


# From before the first call: what an earlier test let a variant change must not become normal.
AT_IMPORT = switches()


@pytest.mark.parametrize("attention", attentions())
def test_a_call_changes_neither_its_inputs_nor_global_state(attention: Attention) -> None:
    attention = fresh_draws(attention, 1001)
    shape = Shape(2, 3, 3, 41, 41, head_dim=7)  # a shape of no other test: nothing is cached
    for call in calls(attention, shape):
        inputs = [x.requires_grad_("backward" in attention.info.supports) for x in shape.tensors()]
        masks = [call["key_padding_mask"]] if call["key_padding_mask"] is not None else []
        copies = [x.detach().clone() for x in (*inputs, *masks)]
        versions = [x._version for x in (*inputs, *masks)]
        before, threads = generators(), torch.get_num_threads()
        out = attention(*inputs, **call)
        if out.requires_grad:
            out.sum().backward()
        attention.weights(*inputs[:2], **call)
        attention.prepare(*inputs[:2], **call)
        assert generators() == before
        assert switches() == AT_IMPORT
        assert torch.get_num_threads() == threads
        assert [x._version for x in (*inputs, *masks)] == versions
        for tensor, copy in zip((*inputs, *masks), copies, strict=True):
            assert torch.equal(tensor, copy)


@pytest.mark.parametrize("attention", attentions())
def test_two_calls_give_identical_results(attention: Attention) -> None:
    inputs = ODD.tensors(torch.float32)
    for call in calls(attention, ODD):
        first = attention(*inputs, **call)
        assert torch.equal(attention(*inputs, **call), first)
        attention.prepare(*inputs[:2], **call)
        torch.manual_seed(7)
        again = dataclasses.replace(attention)(*inputs, **call)
        assert torch.equal(again, first)


@pytest.mark.parametrize("attention", attentions("small", where=has_seed))
def test_the_seed_decides_the_draws(attention: Attention) -> None:
    """In the kernel and in the definition alike; the first call of a seed is as good as any."""
    inputs = SQUARE.tensors()
    for causal in attention.info.causal_choices:
        answers = {}
        for seed in (1002, 1003):
            other = dataclasses.replace(attention, seed=seed)
            answers[seed] = other(*inputs, causal=causal)
            other.prepare(*inputs[:2], causal=causal)
            assert torch.equal(other(*inputs, causal=causal), answers[seed])
        assert not torch.allclose(answers[1002], answers[1003])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("attention", attentions())
@pytest.mark.parametrize(
    ("surroundings", "seed"),
    [(lambda: default_dtype(torch.float64), 1004), (lambda: torch.device("meta"), 1005)],
    ids=["float64", "another device"],
)
def test_the_default_dtype_and_device_do_not_matter(
    attention: Attention, surroundings: Callable[[], AbstractContextManager[Any]], seed: int
) -> None:
    """A program may have set either. The draws of a fresh seed and all masks follow the tensors."""
    attention = fresh_draws(attention, seed)
    inputs = ODD.tensors(torch.float32)
    for call in calls(attention, ODD):
        with surroundings():
            found = attention(*inputs, **call)
            weights = attention.weights(*inputs[:2], **call)
        attention.prepare(*inputs[:2], causal=call["causal"])
        assert found.dtype == weights.dtype == torch.float32
        assert found.device == weights.device == inputs[0].device
        assert torch.equal(found, attention(*inputs, **call))
        assert torch.equal(weights, attention.weights(*inputs[:2], **call))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("attention", attentions("small", where=supports("backward")))
def test_a_first_call_in_inference_mode_does_not_spoil_training(
    attention: Attention, dtype: torch.dtype
) -> None:
    """What is kept from call to call must be usable by autograd."""
    attention = fresh_draws(attention, 1006 if dtype is torch.float32 else 1007)
    for shape in (ODD, Shape(1, 2, 2, 9, 9)):
        inputs = shape.tensors(dtype)
        with torch.inference_mode():
            plainly(attention)(*inputs)
        for tensor in with_gradients(plainly(attention), inputs):
            assert bool(tensor.isfinite().all())


@pytest.mark.parametrize("shape", [ODD, Shape(3, 2, 2, 21, 21)], ids=["grouped heads", "heads"])
@pytest.mark.parametrize("attention", attentions())
def test_inputs_need_not_be_contiguous(attention: Attention, shape: Shape) -> None:
    """Transposed from (batch, seq_len, heads, head_dim), sliced, or expanded over heads. Heads that
    are not grouped are taken together across sequences."""
    query, key, value = shape.tensors()
    run = with_gradients if "backward" in attention.info.supports else lambda f, x: [f(*x)]

    def transposed(tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)

    def sliced(tensor: Tensor) -> Tensor:
        return torch.stack([tensor, tensor.flip(-1)], dim=-1).flatten(-2)[..., ::2]

    shared = [x[:, :1].expand_as(x) for x in (key, value)]
    for call in calls(attention, shape):

        def attend(*inputs: Tensor, call: dict[str, Any] = call) -> Tensor:
            return attention(*inputs, **call)

        expected = run(attend, (query, key, value))
        for layout in (transposed, sliced):
            found = run(attend, [layout(x) for x in (query, key, value)])
            for mine, right in zip(found, expected, strict=True):
                assert_close(mine, right, rtol=1e-12, atol=1e-12)
        expected = run(attend, (query, *(x.contiguous() for x in shared)))
        found = run(attend, (query, *shared))
        for mine, right in zip(found, expected, strict=True):
            assert_close(mine, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", attentions("small", where=supports("backward")))
def test_the_gradient_of_the_output_may_be_an_expanded_scalar(attention: Attention) -> None:
    """As `out.sum().backward()` hands back."""
    inputs = ODD.tensors()
    shape = (ODD.batch, ODD.heads, ODD.query_len, ODD.head_dim)
    ones = torch.ones(shape, dtype=torch.float64)
    found = with_gradients(plainly(attention), inputs, torch.ones(()).double().expand(shape))
    for mine, right in zip(found, with_gradients(plainly(attention), inputs, ones), strict=True):
        assert_close(mine, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", attentions("small"))
def test_seeded_parameters_are_the_default(attention: Attention) -> None:
    inputs = ODD.tensors()
    seeded = attention.init_parameters(ODD.heads, ODD.head_dim)
    again = attention.init_parameters(ODD.heads, ODD.head_dim)
    assert seeded.keys() == again.keys()
    for name in seeded:
        assert torch.equal(seeded[name], again[name])
    placed = {name: tensor.double() for name, tensor in seeded.items()}
    attend = plainly(attention)
    assert torch.equal(attend(*inputs), attend(*inputs, parameters=placed))


# --- Floating point.

# Error of a kernel against float64, in units of the error that torch SDPA makes with the same
# inputs in the same dtype. Half types: a kernel here keeps its sums in float32 and rounds what it
# returns; SDPA on a CPU rounds the weights to the half type besides. So ratios measured 0.7 to 0.9
# for outputs and 0.4 to 1.0 for gradients, and 1.3 where a key is normalised in the half type and
# so rounded once more. float32: 0.4 to 1.3, but 2.9 for random features, whose exponents are larger
# than softmax's scores and multiply their own rounding. With everything held in a half type the
# worst of the four is off by 3 to 8.
TIMES_SDPA = {torch.float32: 4.0, torch.bfloat16: 2.0, torch.float16: 2.0}
PRECISION = Shape(2, 4, 2, 300, 300, head_dim=32)


def relative_errors(
    found: Sequence[Tensor], exact: Sequence[Tensor], least: Sequence[float]
) -> list[float]:
    """Of output and gradients; `least` is the norm below which nothing is relative any more."""
    return [
        float((mine.cpu().double() - right).norm() / max(float(right.norm()), floor))
        for mine, right, floor in zip(found, exact, least, strict=True)
    ]


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("dtype", list(TIMES_SDPA), ids=str)
# At the smallest hyperparameters whole gradients cancel (one feature, one visible key), so that the
# error of what is left says nothing.
@pytest.mark.parametrize("attention", attentions("small", "defaults", where=supports("backward")))
def test_rounding_is_that_of_torch_sdpa(
    attention: Attention, dtype: torch.dtype, causal: bool, device: str
) -> None:
    """Output and gradients against the variant's own definition in float64, on the CPU."""
    if causal not in attention.info.causal_choices:
        pytest.skip("does not serve this direction")
    inputs = PRECISION.tensors(dtype)

    def softmax(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True)

    wide = [x.double() for x in inputs]
    generator = torch.Generator().manual_seed(2)
    cotangent = torch.randn(wide[0].shape, generator=generator).to(dtype)
    exact = with_gradients(softmax, wide, cotangent)
    # A method may have no gradient at all; what is left is compared with a thousandth of softmax's.
    least = [float(tensor.norm()) / 1000 for tensor in exact]
    placed = [x.to(device) for x in inputs]
    baseline = relative_errors(with_gradients(softmax, placed, cotangent), exact, least)

    own = with_gradients(
        lambda *x: own_answer(attention, *x, causal=causal), wide, cotangent.double()
    )
    found = with_gradients(lambda *x: attention(*x, causal=causal), placed, cotangent)
    errors = relative_errors(found, own, least)
    assert [tensor.dtype for tensor in found] == [dtype] * 4
    assert [tensor.device.type for tensor in found] == [device] * 4
    ratios = [mine / theirs for mine, theirs in zip(errors, baseline, strict=True)]
    assert max(ratios) <= TIMES_SDPA[dtype], f"times SDPA's error: {ratios}"


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("dtype", list(TIMES_SDPA), ids=str)
@pytest.mark.parametrize(
    "attention", attentions("small", "defaults", where=supports("backward", "distance_bias"))
)
def test_rounding_with_a_bias_is_that_of_torch_sdpa(
    attention: Attention, dtype: torch.dtype, causal: bool, device: str
) -> None:
    """SDPA gets the bias as a mask, and rounds it to the dtype of the query; ours may be wider."""
    if causal not in attention.info.causal_choices:
        pytest.skip("does not serve this direction")
    inputs = (*PRECISION.tensors(dtype), PRECISION.distance_bias(dtype))
    rows, keys = torch.arange(PRECISION.query_len)[:, None], torch.arange(PRECISION.key_len)
    entries = keys - rows + PRECISION.query_len - 1
    later = keys > rows if causal else torch.zeros(1, dtype=torch.bool)

    def softmax(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        mask = bias[:, entries.to(bias.device)].masked_fill(later.to(bias.device), -torch.inf)
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask[None], enable_gqa=True
        )

    def biased(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *x: function(*x[:3], causal=causal, distance_bias=x[3])

    wide = [x.double() for x in inputs]
    generator = torch.Generator().manual_seed(2)
    cotangent = torch.randn(wide[0].shape, generator=generator).to(dtype)
    exact = with_gradients(softmax, wide, cotangent)
    least = [float(tensor.norm()) / 1000 for tensor in exact]
    placed = [x.to(device) for x in inputs]
    baseline = relative_errors(with_gradients(softmax, placed, cotangent), exact, least)
    own = with_gradients(biased(partial(own_answer, attention)), wide, cotangent.double())
    found = with_gradients(biased(attention), placed, cotangent)
    assert [tensor.dtype for tensor in found] == [dtype] * 5
    ratios = [
        mine / theirs
        for mine, theirs in zip(relative_errors(found, own, least), baseline, strict=True)
    ]
    assert max(ratios) <= TIMES_SDPA[dtype], f"times SDPA's error: {ratios}"
    # A bias of a wider dtype is not rounded, and has a gradient of its own dtype.
    mixed = with_gradients(biased(attention), (*placed[:3], placed[3].float()), cotangent)
    assert [tensor.dtype for tensor in mixed] == [dtype] * 4 + [torch.float32]
    assert torch.equal(mixed[0], found[0])


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
@pytest.mark.parametrize("attention", attentions())
def test_inputs_of_norm_fifty_stay_in_range(
    attention: Attention, dtype: torch.dtype, device: str
) -> None:
    """Scores reach thousands, whose exponentials leave every dtype: no row may break or vanish."""
    query, key, value = (
        (50 * x / x.norm(dim=-1, keepdim=True)).to(device, dtype) for x in ODD.tensors()
    )
    for call in calls(attention, ODD):
        mask = call["key_padding_mask"]
        call = {**call, "key_padding_mask": None if mask is None else mask.to(device)}
        run = with_gradients if "backward" in attention.info.supports else lambda f, x: [f(*x)]
        inputs = query, key, value
        answers = run(lambda *x, call=call: attention(*x, **call), inputs)
        # What is no mean may by its definition lie outside of a half type's range.
        beyond: Sequence[Tensor | bool] = [False] * len(answers)
        if not attention.convex:
            wide = [x.double() for x in inputs]
            exact = run(lambda *x, call=call: own_answer(attention, *x, **call), wide)
            beyond = [right.abs() > torch.finfo(dtype).max / 2 for right in exact]
        for tensor, may_be_infinite in zip(answers, beyond, strict=True):
            assert bool((tensor.isfinite() | may_be_infinite).all())
            assert not tensor.isnan().any()
        if call["causal"] and attention.info.exact_when is None:
            # An estimator may only shift by what earlier keys allow, so rows can leave the range of
            # float32; they are 0 then.
            continue
        # The sum of each row's weights, as the kernel has them; 1 or 0 if they form a mean.
        found = attention(query, key, torch.ones_like(value), **call)[..., 0]
        expected = attention.weights(query.double(), key.double(), **call).sum(-1)
        assert_close(found.double(), expected, rtol=0 if attention.convex else 0.02, atol=0.02)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("attention", attentions(where=supports("backward")))
def test_a_gpu_gives_the_answers_of_a_cpu(attention: Attention, device: str) -> None:
    """In float64, where only a different algorithm can differ: other draws, a wrong index."""
    for name in ("odd length, grouped heads", "more keys than queries", "more queries than keys"):
        shape = SHAPES[name]
        inputs = shape.tensors()
        asked = calls(attention, shape)
        if supports("distance_bias")(attention):
            asked += [{**call, "distance_bias": shape.distance_bias()} for call in asked]
        for call in asked:
            placed = {
                word: given.to(device) if isinstance(given, Tensor) else given
                for word, given in call.items()
            }
            expected = with_gradients(
                lambda *x, call=call: own_answer(attention, *x, **call), inputs
            )
            found = with_gradients(
                lambda *x, call=placed: attention(*x, **call), [x.to(device) for x in inputs]
            )
            for mine, right in zip(found, expected, strict=True):
                assert_close(mine.cpu(), right)


# --- Memory.


class Allocations(TorchDispatchMode):
    """Every tensor that an operation returns: the largest one, and the most that lived at once.

    Counted in elements of storage, so a view or an expanded tensor costs nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.peak = self._now = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._enter(tensor)
        self.peak = max(self.peak, self._now)
        return out

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        self.largest = max(self.largest, size // tensor.element_size())
        if address not in self._live:
            self._live[address] = size
            self._now += size
            weakref.finalize(storage, self._leave, address)

    def _leave(self, address: int) -> None:
        self._now -= self._live.pop(address)


LENGTHS = (1024, 4096)


def allocations(attention: Attention, length: int, direction: str, **call: Any) -> tuple[int, int]:
    """Elements of the largest tensor and the peak of live bytes, of one pass."""
    inputs = Shape(1, 1, 1, length, length).tensors(torch.float32)
    for tensor in inputs:
        tensor.requires_grad_(direction == "forward_backward")
    if (mask := call.get("key_padding_mask")) is not None:
        call["key_padding_mask"] = mask[:, :length]
    if call.pop("biased", False):
        bias = Shape(1, 1, 1, length, length).distance_bias(torch.float32)
        call["distance_bias"] = bias.requires_grad_(direction == "forward_backward")
    attention.prepare(*inputs[:2], causal=call.get("causal", False))
    with Allocations() as seen:
        out = attention(*inputs, **call)
        if direction == "forward_backward":
            out.sum().backward()
    return seen.largest, seen.peak


def memory_calls(attention: Attention) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(4)
    mask = torch.rand(1, max(LENGTHS), generator=generator) < 0.2
    return [
        {"causal": causal, "key_padding_mask": mask if padded else None, "biased": biased}
        for causal in attention.info.causal_choices
        for padded in (False, True)
        if not padded or supports("key_padding_mask")(attention)
        for biased in (False, True)
        if not biased or supports("distance_bias")(attention)
    ]


def declares_quadratic(attention: Attention) -> bool:
    return bool(re.search(r"n²|n\^2|n·n(?!\w)", attention.info.memory))


def assert_memory_grows_as_declared(attention: Attention, direction: str, **call: Any) -> None:
    short, long = LENGTHS
    _, peak = allocations(attention, short, direction, **call)
    largest, long_peak = allocations(attention, long, direction, **call)
    if declares_quadratic(attention):
        return
    # No tensor is even a quarter of queries × keys, whoever asks for it.
    assert largest < long**2 // 4, f"a tensor of {largest} elements at length {long}"
    growth = long_peak / peak
    assert growth < 1.5 * long / short, (
        f"memory grows {growth:.1f} times for {long // short} times the length; "
        f"declared {attention.info.memory}"
    )


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that are full at the shorter length already, and so do not seem to grow."""
    monkeypatch.setattr(head_slabs, "SCORES_CPU", 1 << 18)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
@pytest.mark.parametrize("attention", attentions("small"))
def test_memory_grows_as_declared(attention: Attention, direction: str) -> None:
    if direction == "forward_backward" and not supports("backward")(attention):
        pytest.skip("does not support backward")
    for call in memory_calls(attention):
        assert_memory_grows_as_declared(attention, direction, **call)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("attention", attentions("small"))
def test_memory_of_a_forward_pass_grows_as_declared_in_every_implementation(
    attention: Attention,
) -> None:
    for name in set(attention.info.implementations) - COMPILED:
        if attention.unavailable(name, torch.device("cpu")) is None:
            named = dataclasses.replace(attention, implementation=name)
            for call in memory_calls(named):
                with suppress(UnsupportedError):
                    assert_memory_grows_as_declared(named, "forward", **call)


# --- What is refused, and how.


def describe(name: str, memory: str, capabilities: set[str]) -> Info:
    return Info(
        name=name,
        title="a variant of this file",
        year=2000,
        url="",
        time="n",
        memory=memory,
        target="other_kernel",
        supports=frozenset(capabilities),
        implementations=("plain",),
        exact_when=None,
        grid=({},),
    )


@dataclass(frozen=True)
class OwnValue(Attention):
    """Every row returns its own value; supports nothing."""

    info = describe("own_value", "n", set())

    def attend(self, query: Tensor, key: Tensor, value: Tensor, **call: Any) -> Tensor:
        return for_each_head(value, query.shape[1])

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, **call: Any) -> Tensor:
        return torch.eye(key.shape[2], dtype=query.dtype)[rows].expand(*query.shape[:2], -1, -1)


class HiddenProduct(torch.autograd.Function):
    """All scores at once, where autograd's own record does not show them: in one direction."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, when: str) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.when = when
        if when == "forward":
            (query @ key.mT).relu()
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value = ctx.saved_tensors
        if ctx.when == "backward":
            (query @ key.mT).relu()
        return query, key, value, None


@dataclass(frozen=True)
class SecretlyQuadratic(OwnValue):
    """Claims memory n·d."""

    info = describe("secretly_quadratic", "n·d", {"backward"})
    when: str = "forward"

    def attend(self, query: Tensor, key: Tensor, value: Tensor, **call: Any) -> Tensor:
        if self.when == "kept":
            # Never more than a sixteenth of the scores at once, but autograd keeps them all.
            return torch.cat(
                [torch.softmax(rows @ key.mT, -1) @ value for rows in query.chunk(16, dim=2)], 2
            )
        return HiddenProduct.apply(query, key, value, self.when)


@pytest.mark.parametrize("when", ["forward", "backward", "kept"])
def test_a_kernel_that_builds_all_scores_in_secret_is_caught(when: str) -> None:
    with pytest.raises(AssertionError, match=r"elements at length|memory grows"):
        assert_memory_grows_as_declared(SecretlyQuadratic(when=when), "forward_backward")


def test_a_kernel_that_builds_nothing_is_not_caught() -> None:
    assert_memory_grows_as_declared(OwnValue(), "forward")


@pytest.mark.parametrize("entry", ["call", "weights"])
@pytest.mark.parametrize("word", ["causal", "key_padding_mask", "cross_attention", "distance_bias"])
def test_an_unsupported_capability_raises_and_names_variant_and_word(word: str, entry: str) -> None:
    query, key, value = ODD.tensors()
    arguments: dict[str, Any] = {
        "causal": {"causal": True},
        "key_padding_mask": {"key_padding_mask": ODD.padding()},
        "cross_attention": {},
        "distance_bias": {"distance_bias": ODD.distance_bias()},
    }[word]
    if word == "cross_attention":
        query = query[:, :, 1:]
    attention = OwnValue()
    inputs = (query, key, value) if entry == "call" else (query, key)
    function = attention if entry == "call" else attention.weights
    with pytest.raises(UnsupportedError, match=f"own_value does not support '{word}'"):
        function(*inputs, **arguments)


def test_a_causal_only_variant_refuses_another_call() -> None:
    @dataclass(frozen=True)
    class Last(OwnValue):
        info = dataclasses.replace(describe("last", "n", {"causal"}), causal_only=True)

    query, key, value = ODD.tensors()
    for function in (Last(), lambda *x, **call: Last().weights(*x[:2], **call)):
        with pytest.raises(UnsupportedError, match=r"last is causal only: .* got causal=False"):
            function(query, key, value)
        assert function(query, key, value, causal=True).shape[2] == ODD.query_len


@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
def test_a_gradient_is_refused_where_backward_is_not_supported(which: int) -> None:
    inputs = ODD.tensors()
    inputs[which].requires_grad_()
    with pytest.raises(UnsupportedError, match="own_value does not support 'backward'"):
        OwnValue()(*inputs)
    with torch.no_grad():
        assert_close(OwnValue()(*inputs), for_each_head(inputs[2], ODD.heads))


def test_what_needs_no_capability_is_served() -> None:
    query, key, value = ODD.tensors()
    assert_close(OwnValue()(query, key, value), own_answer(OwnValue(), query, key, value))


@pytest.mark.parametrize(
    "word", ["causal", "key_padding_mask", "cross_attention", "backward", "distance_bias"]
)
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_registered_variant_serves_or_refuses_each_capability(name: str, word: str) -> None:
    attention = variants.create(name, **small_settings(name))
    query, key, value = (x[:, :2] for x in ODD.tensors())
    arguments: dict[str, Any] = {}
    if word == "causal" or attention.info.causal_only:
        arguments["causal"] = True
    if word == "causal":
        pass
    elif word == "key_padding_mask":
        arguments["key_padding_mask"] = ODD.padding()
    elif word == "cross_attention":
        query = query[:, :, 3:]
    elif word == "distance_bias":
        arguments["distance_bias"] = ODD.distance_bias()[:2]
    else:
        value.requires_grad_()
    if word in attention.info.supports:
        assert attention(query, key, value, **arguments).shape == query.shape
    else:
        with pytest.raises(UnsupportedError, match=f"{name} does not support '{word}'"):
            attention(query, key, value, **arguments)


def wrong_calls() -> list[Any]:
    """Arguments that do not fit together, and what the message must say was wanted and got."""
    query, key, value = Shape(2, 4, 2, 6, 6).tensors(torch.float32)
    wrong: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
        "rank": (
            (query[0], key, value),
            {},
            r"must be \(batch, heads, seq_len, head_dim\); got query \(4, 6, 8\)",
        ),
        "key and value": (
            (query, key, value[:, :, :5]),
            {},
            r"same shape; got .*key \(2, 2, 6, 8\), value \(2, 2, 5, 8\)",
        ),
        "batch": (
            (query[:1], key, value),
            {},
            r"agree in batch and head_dim; got query \(1, 4, 6, 8\), key \(2, 2, 6, 8\)",
        ),
        "head_dim": (
            (query[..., :4], key, value),
            {},
            r"agree in batch and head_dim; got query \(2, 4, 6, 4\), key \(2, 2, 6, 8\)",
        ),
        "empty": (
            (query[:, :, :0], key[:, :, :0], value[:, :, :0]),
            {},
            r"at least 1; got query \(2, 4, 0, 8\)",
        ),
        "heads": ((query[:, :3], key, value), {}, "must divide .*; got heads=3, kv_heads=2"),
        "fewer heads": ((query[:, :1], key, value), {}, "must divide .*; got heads=1, kv_heads=2"),
        "mixed dtypes": (
            (query, key.double(), value),
            {},
            "share one dtype of float16, bfloat16, float32, float64; "
            "got torch.float32, torch.float64, torch.float32",
        ),
        "integers": (
            tuple(x.long() for x in (query, key, value)),
            {},
            "share one dtype of float16, bfloat16, float32, float64; got torch.int64",
        ),
        "devices": (
            (query, key.to("meta"), value.to("meta")),
            {},
            "on one device; got cpu, meta, meta",
        ),
        "mask shape": (
            (query, key, value),
            {"key_padding_mask": torch.zeros(2, 5, dtype=torch.bool)},
            r"bool of shape \(2, 6\), True = padding; got torch.bool of shape \(2, 5\)",
        ),
        "mask rank": (
            (query, key, value),
            {"key_padding_mask": torch.zeros(2, 1, 6, dtype=torch.bool)},
            r"bool of shape \(2, 6\), True = padding; got torch.bool of shape \(2, 1, 6\)",
        ),
        "mask dtype": (
            (query, key, value),
            {"key_padding_mask": torch.zeros(2, 6)},
            r"bool of shape \(2, 6\), True = padding; got torch.float32 of shape \(2, 6\)",
        ),
        "mask device": (
            (query, key, value),
            {"key_padding_mask": torch.zeros(2, 6, dtype=torch.bool, device="meta")},
            "key_padding_mask must be on cpu; got meta",
        ),
        "bias of kv heads": (
            (query, key, value),
            {"distance_bias": torch.zeros(2, 11)},
            r"distance_bias must be .* = \(4, 11\) and on cpu; got .* of shape \(2, 11\)",
        ),
        "bias of distances back alone": (
            (query, key, value),
            {"distance_bias": torch.zeros(4, 6)},
            r"query_len \+ key_len - 1\) = \(4, 11\) .*; got torch.float32 of shape \(4, 6\)",
        ),
        "bias as a mask": (
            (query, key, value),
            {"distance_bias": torch.zeros(4, 6, 6)},
            r"= \(4, 11\) .*; got torch.float32 of shape \(4, 6, 6\)",
        ),
        "bias of integers": (
            (query, key, value),
            {"distance_bias": torch.zeros(4, 11, dtype=torch.int64)},
            r"distance_bias must be of floating point, .*; got torch.int64 of shape \(4, 11\)",
        ),
        "bias elsewhere": (
            (query, key, value),
            {"distance_bias": torch.zeros(4, 11, device="meta")},
            r"and on cpu; got torch.float32 of shape \(4, 11\) on meta",
        ),
    }
    return [pytest.param(*case, id=label) for label, case in wrong.items()]


@pytest.mark.parametrize(("inputs", "arguments", "message"), wrong_calls())
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_arguments_that_do_not_fit_raise_and_say_what_was_expected(
    name: str, inputs: tuple[Tensor, ...], arguments: dict[str, Any], message: str
) -> None:
    attention = variants.create(name)
    if not arguments.keys() <= attention.info.supports:
        pytest.skip("refuses the argument altogether")
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        plainly(attention)(*inputs, **arguments)


@pytest.mark.parametrize("attention", attentions())
def test_parameters_that_do_not_fit_raise_and_name_what_would(attention: Attention) -> None:
    query, key, value = ODD.tensors()
    right = attention.init_parameters(ODD.heads, ODD.head_dim)
    wanted = ", ".join(f"{name} {tuple(x.shape)}" for name, x in sorted(right.items())) or "none"
    wrong: list[tuple[Any, str]] = [([1.0], "list")]
    changed = [{**right, "unknown": torch.zeros(3)}]
    for name, tensor in right.items():
        changed.append({other: right[other] for other in right if other != name})
        changed.append({**right, name: tensor[None]})
        wrong.append(({**right, name: tensor.tolist()}, f"{name} of type list"))
        wrong.append(({**right, name: tensor.long()}, f"{name} of torch.int64"))
        wrong.append(({**right, name: tensor.to("meta")}, f"{name} on meta"))
    for given in changed:
        got = ", ".join(f"{name} {tuple(x.shape)}" for name, x in sorted(given.items()))
        wrong.append((given, got or "none"))
    for given, got in wrong:
        message = (
            f"{attention.info.name}: parameters must be {wanted}, of floating point and on cpu; "
            f"got {got}"
        )
        for function in (attention, lambda *x, **call: attention.weights(*x[:2], **call)):
            call = {"causal": attention.info.causal_choices[0], "parameters": given}
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                function(query, key, value, **call)


def test_weights_are_checked_like_the_call() -> None:
    query, key, _ = ODD.tensors()
    attention: Attention = OwnValue()
    with pytest.raises(ValueError, match=r"own_value: .*agree in batch and head_dim; got query"):
        attention.weights(query[:1], key)
    parameters: Parameters = {}
    assert_close(
        attention.weights(query, key, rows=torch.tensor([2]), parameters=parameters)[0, 0, 0],
        torch.eye(ODD.key_len, dtype=torch.float64)[2],
    )
