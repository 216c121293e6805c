"""FlexAttention: the block lists against the pattern that they are made from, then the results.

Compilation takes seconds for each case, so few cases are compiled. Each has several unusual
properties.
"""

from __future__ import annotations

import dataclasses
import gc
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from variants import Attention, UnsupportedError
from variants.contract import tensor_cache
from variants.contract.call import Call
from variants.contract.pattern import Pattern
from variants.engines.libraries import block_lists, flex

CPU = torch.device("cpu")
HERE = pytest.mark.skipif(
    flex.unavailable(CPU) is not None, reason=f"cannot compile: {flex.unavailable(CPU)}"
)
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def bigbird(query_len: int, key_len: int, causal: bool, **settings: int) -> Pattern:
    return variants.create("bigbird", **settings).pattern(3, query_len, key_len, causal)


PATTERNS = {
    "window": Pattern(300, 300, False, window=20),
    "causal window": Pattern(301, 301, True, window=70),
    "window of one": Pattern(130, 130, True, window=0),
    "everything": Pattern(70, 133, False, window=1 << 40),
    "everything causal": Pattern(133, 133, True, window=1 << 40),
    "globals": Pattern(301, 301, False, window=20, leading=37, trailing=5),
    "causal globals": Pattern(301, 301, True, window=20, leading=70, trailing=33),
    "sinks": Pattern(301, 301, False, window=20, leading=37, global_rows=False),
    "causal sinks": Pattern(301, 301, True, window=20, leading=70, global_rows=False),
    "sinks, more queries": Pattern(301, 90, False, window=5, leading=16, global_rows=False),
    "all global": Pattern(100, 100, False, window=0, leading=100),
    "more keys": Pattern(90, 301, True, window=40, leading=16),
    "more queries": Pattern(301, 90, True, window=40, leading=16),
    "more queries, not causal": Pattern(301, 90, False, window=40, trailing=9),
    "blocks as large": bigbird(512, 512, False, block_size=32),
    "blocks as large, causal": bigbird(512, 512, True, block_size=32),
    "smaller blocks": bigbird(333, 333, True, block_size=8, num_random_blocks=2),
    "larger blocks": bigbird(700, 700, False, block_size=100, num_global_blocks=3),
    "blocks that do not align": bigbird(205, 333, True, block_size=32),
    "blocks and more queries": bigbird(333, 205, False, block_size=24),
    "one token": Pattern(1, 1, True, window=3),
}


def tiles(pattern: Pattern, size: int) -> tuple[Tensor, Tensor]:
    """Whether some pair, and whether every pair, of each two blocks is visible, from the dense
    mask: (heads or 1, query blocks, key blocks). For a shorter last block the second is False."""
    seen = pattern.mask(torch.arange(pattern.query_len))
    rows, columns = -(-pattern.query_len // size), -(-pattern.key_len // size)
    padded = torch.zeros(len(seen), rows * size, columns * size, dtype=torch.bool)
    padded[:, : pattern.query_len, : pattern.key_len] = seen
    cut = padded.view(len(seen), rows, size, columns, size)
    return cut.any(4).any(2), cut.all(4).all(2)


def dense(count: Tensor, index: Tensor) -> Tensor:
    """The listed columns of each row as a bool table; lists must be sorted, without repeats."""
    table = torch.zeros(index.shape, dtype=torch.bool)
    for place, number in enumerate(count.flatten().tolist()):
        listed = index.flatten(0, -2)[place, :number].tolist()
        assert listed == sorted(set(listed))
        table.view(-1, index.shape[-1])[place, listed] = True
    return table[0]


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("name", list(PATTERNS))
def test_block_lists_match_the_pattern(name: str, size: int) -> None:
    pattern = PATTERNS[name]
    seen, whole = tiles(pattern, size)
    lists = block_lists.block_lists(pattern, size, False, True, CPU)
    part, full, part_by_key, full_by_key = (
        dense(lists[2 * which], lists[2 * which + 1]) for which in range(4)
    )
    assert not (part & full).any()
    assert bool((part | full)[seen].all()), "a kernel would omit visible pairs"
    assert bool(whole[full].all()), "a kernel would include hidden pairs"
    assert torch.equal(part_by_key, part.mT)
    assert torch.equal(full_by_key, full.mT)
    # A longer list costs time. With random blocks the list may be longer than necessary, because
    # some rows of a block draw keys beyond the diagonal of other rows.
    if pattern.random_blocks is None:
        assert torch.equal(part | full, seen)
    if pattern.random_blocks is None or pattern.block_size % size == 0:
        assert float((part & ~full & whole).float().sum()) <= 0.02 * float(whole.sum())


def test_with_padding_every_block_has_a_mask() -> None:
    pattern = PATTERNS["causal globals"]
    plain = block_lists.block_lists(pattern, 32, False, True, CPU)
    padded = block_lists.block_lists(pattern, 32, True, True, CPU)
    assert int(plain.full_kv_num_blocks.sum()) > 0
    assert int(padded.full_kv_num_blocks.sum()) == 0
    assert torch.equal(padded.kv_num_blocks, plain.kv_num_blocks + plain.full_kv_num_blocks)


@pytest.mark.parametrize("causal", [False, True])
def test_the_work_for_a_list_grows_with_the_number_of_visible_blocks(causal: bool) -> None:
    """It does not grow with the square of the tokens or of the blocks."""
    found = [
        block_lists.block_pairs(Pattern(length, length, causal, window=256), 64)
        for length in (1 << 16, 1 << 20)
    ]
    for pairs in found:
        assert len(pairs.row) <= 9 * pairs.rows
    assert len(found[1].row) < 17 * len(found[0].row)


@dataclasses.dataclass(frozen=True)
class Given:
    """A call that is compiled."""

    name: str
    settings: dict[str, Any]
    query_len: int
    key_len: int
    causal: bool
    padded: bool
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    scale: float | None = None

    def tensors(self, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(5)
        key_shape = (3, self.kv_heads, self.key_len, self.head_dim)
        shapes = ((3, self.heads, self.query_len, self.head_dim), key_shape, key_shape)
        query, key, value = (
            torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes
        )
        return query, key, value

    def padding(self, device: str) -> Tensor | None:
        """Padding in several places of the first sequence, all of the second, none of the third."""
        if not self.padded:
            return None
        mask = torch.zeros(3, self.key_len, dtype=torch.bool)
        mask[0] = torch.rand(self.key_len, generator=torch.Generator().manual_seed(6)) < 0.4
        mask[0, -1] = False
        mask[1] = True
        return mask.to(device)

    def attention(self, implementation: str = "flex") -> Attention:
        return variants.create(self.name, implementation=implementation, **self.settings)

    def expected(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = self.attention("auto").weights(
            query,
            key,
            causal=self.causal,
            key_padding_mask=self.padding(query.device.type),
            scale=self.scale,
        )
        return weights @ value.repeat_interleave(self.heads // self.kv_heads, 1)


GIVEN = {
    "window, causal, padding, odd": Given(
        "sliding_window", {"window_size": 20}, 301, 301, True, True
    ),
    "longformer, odd": Given(
        "longformer",
        {"window_size": 40, "num_global_tokens": 70},
        261,
        261,
        False,
        False,
        scale=0.3,
    ),
    "bigbird, aligned": Given("bigbird", {"block_size": 64}, 768, 768, False, False),
    "bigbird, causal, more keys, padding": Given(
        "bigbird", {"block_size": 16}, 130, 301, True, True
    ),
    "window, causal, more queries": Given(
        "sliding_window", {"window_size": 50}, 200, 90, True, False, kv_heads=4
    ),
    "window of everything, causal": Given(
        "sliding_window", {"window_size": 1 << 40}, 130, 130, True, False, heads=2
    ),
    # With 512 keys for each of the three sequences torch uses a kernel for a single query.
    "bigbird, one query": Given(
        "bigbird", {"block_size": 16, "num_global_blocks": 0}, 1, 1601, True, True, kv_heads=1
    ),
}


# Compiled, and compared with the definition, by the next test.
FIRST = "window, causal, padding, odd"


@HERE
@pytest.mark.parametrize("label", [label for label in GIVEN if label != FIRST])
def test_the_result_equals_the_definition(label: str) -> None:
    given = GIVEN[label]
    query, key, value = given.tensors(torch.float32, "cpu")
    query.requires_grad_()
    call = {
        "causal": given.causal,
        "key_padding_mask": given.padding("cpu"),
        "scale": given.scale,
    }
    with torch.no_grad():
        found = given.attention()(query, key, value, **call)
    expected = given.expected(*(x.detach().double() for x in (query, key, value)))
    assert found.dtype == torch.float32
    assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@HERE
def test_a_second_call_and_another_mask_compile_nothing() -> None:
    from torch._dynamo.utils import counters

    given = GIVEN[FIRST]
    call = {"causal": given.causal, "scale": given.scale}
    query, key, value = given.tensors(torch.float32, "cpu")
    attention, mask = given.attention(), given.padding("cpu")
    limits = vars(torch._dynamo.config)["_config"]
    before = {name: entry.user_override for name, entry in limits.items()}
    with torch.no_grad():
        before_any = counters["stats"]["unique_graphs"]
        attention.prepare(query, key, key_padding_mask=mask, causal=given.causal)
        compiled = counters["stats"]["unique_graphs"]
        assert compiled == before_any + 1
        found = attention(query, key, value, key_padding_mask=mask, **call)
        attention(key.repeat_interleave(2, 1), key, value, key_padding_mask=~mask, **call)
    assert counters["stats"]["unique_graphs"] == compiled
    assert {name: entry.user_override for name, entry in limits.items()} == before
    assert_close(
        found.double(),
        given.expected(query.double(), key.double(), value.double()),
        rtol=1e-5,
        atol=1e-5,
    )


@HERE
def test_other_random_blocks_compile_nothing_and_are_used() -> None:
    from torch._dynamo.utils import counters

    query, key, value = (torch.randn(1, 2, 160, 16) for _ in range(3))
    with torch.no_grad():
        first = variants.create("bigbird", block_size=16, implementation="flex")
        first(query, key, value, causal=True)
        compiled = counters["stats"]["unique_graphs"]
        other = dataclasses.replace(first, seed=1)
        found = other(query, key, value, causal=True)
    assert counters["stats"]["unique_graphs"] == compiled
    expected = other.weights(query, key, causal=True) @ value
    assert_close(found, expected)
    assert not torch.allclose(found, first(query, key, value, causal=True))


def test_compiled_functions_have_separate_recompilation_limits() -> None:
    codes = [flex._to_compile()._torchdynamo_orig_callable.__code__ for _ in range(2)]
    assert codes[0] is not codes[1]


@HERE
def test_compiled_data_is_freed_with_its_pattern() -> None:
    given = GIVEN["window, causal, more queries"]
    query, key, value = given.tensors(torch.float32, "cpu")
    tensor_cache.clear()
    pattern = Pattern(given.query_len, given.key_len, True, window=50)
    flex.attend(query, key, value, pattern, Call(scale=0.25))
    count = len(flex._kept)
    tensor_cache.clear()
    del pattern
    gc.collect()
    assert len(flex._kept) == count - 1


@HERE
@pytest.mark.parametrize("name", ["sliding_window", "longformer", "bigbird"])
def test_unsupported_calls_are_refused_before_anything_is_compiled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex, "_to_compile", None)
    attention = variants.create(name, implementation="flex")
    query = torch.zeros(1, 2, 300, 16, requires_grad=True)
    key = torch.zeros(1, 2, 300, 16)
    with pytest.raises(UnsupportedError, match="FlexAttention has no backward pass on a CPU"):
        attention(query, key, key)
    with pytest.raises(UnsupportedError, match="FlexAttention has no backward pass on a CPU"):
        attention.prepare(query, key, causal=True)
    double = key.double()
    with pytest.raises(UnsupportedError, match="takes float16, bfloat16 and float32; got float64"):
        attention(double, double, double)


@pytest.mark.parametrize("name", ["sliding_window", "longformer", "bigbird"])
def test_without_a_compiler_it_raises_with_the_reason(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    attention = variants.create(name, implementation="flex")
    key = torch.zeros(1, 2, 30, 16)
    with pytest.raises(UnsupportedError, match=f"{name}: implementation 'flex' .* no C\\+\\+ comp"):
        attention(key, key, key)
    assert variants.create(name).choose_implementation(key, key) == "blocks"


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("label", list(GIVEN))
def test_output_and_gradients_on_a_gpu(label: str, dtype: torch.dtype, device: str) -> None:
    """Against the definition in float64, with the error relative to the whole tensor."""
    given = GIVEN[label]
    attention = given.attention()
    if (reason := flex.unavailable(torch.device(device))) is not None:
        pytest.skip(reason)
    inputs = given.tensors(dtype, device)
    mask = given.padding(device)
    call = {"causal": given.causal, "key_padding_mask": mask, "scale": given.scale}
    with torch.no_grad():
        forward = attention(*inputs, **call)
    leaves = [x.clone().requires_grad_() for x in inputs]
    wide = [x.double().requires_grad_() for x in inputs]
    found, expected = attention(*leaves, **call), given.expected(*wide)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(8)).to(device)
    mine = (forward, found, *torch.autograd.grad(found, leaves, cotangent.to(dtype)))
    right = (expected, expected, *torch.autograd.grad(expected, wide, cotangent.double()))
    bound = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}[dtype]
    for tensor, exact, times in zip(mine, right, (1, 1, 3, 3, 3), strict=True):
        assert tensor.dtype == dtype
        assert float((tensor.double() - exact).norm()) <= times * bound * float(exact.norm())
        if mask is not None:
            assert not tensor[1].any()


@pytest.mark.parametrize("device", [GPU])
def test_a_gpu_refuses_a_head_too_narrow_for_its_matrix_units(device: str) -> None:
    key = torch.zeros(1, 2, 30, 8, device=device)
    with pytest.raises(UnsupportedError, match="head_dim of at least 16; got 8"):
        variants.create("sliding_window", implementation="flex")(key, key, key)
