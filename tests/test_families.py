"""Synthetic families of inputs: each has the properties of its name, at every shape, with
reproducible numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench import inputs
from bench.inputs import families
from bench.instruments import memory
from bench.instruments.accuracy.description import describe
from bench.schema.case import Case
from tests.cases import case
from variants.contract.definitions import expand_heads

NAMES = tuple(families.FAMILIES)


def asked(name: str, **changes: object) -> Case:
    return case(inputs=name, **({"head_dim": 64, "causal": True} | changes))


def tensors(name: str, **changes: object) -> tuple[Tensor, Tensor, Tensor]:
    loaded = inputs.load(asked(name, **changes), {})
    return loaded.query, loaded.key, loaded.value


def seen(name: str, **changes: object) -> dict[str, Tensor]:
    """The description of each head, from 128 rows."""
    query, key, _ = tensors(name, **changes)
    causal = bool(changes.get("causal", True))
    rows = torch.linspace(0, query.shape[2] - 1, 128).long()
    return vars(describe(query, key, rows, torch.ones(128), causal=causal))


# Bounds of the mean over four heads.
PROMISES: dict[str, dict[str, tuple[float, float]]] = {
    "clustered": {
        "effective_keys": (
            15,
            85,
        ),  # a cluster has 32 or 64 keys; half are visible if causal
        "sink_mass": (0, 0.02),
        "near_mass": (
            0.03,
            0.45,
        ),  # about the share of near keys
        "top64_mass": (0.9, 1),
    },
    "local": {
        "effective_keys": (20, 80),
        "sink_mass": (0, 0.02),
        "near_mass": (0.95, 1),
        "top64_mass": (0.85, 1),
    },
    "needle": {
        "effective_keys": (3, 10),
        "near_mass": (0, 0.22),
        "top64_mass": (0.95, 1),
    },
    "sinks": {
        "effective_keys": (12, 60),
        "sink_mass": (0.4, 0.6),
        "near_mass": (0.3, 0.55),
        "top64_mass": (0.8, 0.95),
    },
}


class TestProperties:
    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("seq_len", [1024, 4096])
    @pytest.mark.parametrize("name", NAMES)
    def test_the_description_matches_the_name_of_the_family(
        self, name: str, seq_len: int, causal: bool
    ) -> None:
        found = seen(name, seq_len=seq_len, heads=4, causal=causal)
        for column, (low, high) in PROMISES[name].items():
            assert low <= float(found[column].mean()) <= high, column

    @pytest.mark.parametrize("seed", [1, 2, 3])
    @pytest.mark.parametrize("head_dim", [32, 128])
    @pytest.mark.parametrize("name", NAMES)
    def test_the_description_matches_at_other_widths_and_seeds(
        self, name: str, head_dim: int, seed: int
    ) -> None:
        found = seen(name, seq_len=2048, heads=4, head_dim=head_dim, seed=seed)
        for column, (low, high) in PROMISES[name].items():
            assert low <= float(found[column].mean()) <= high, column

    @pytest.mark.parametrize("name", NAMES)
    def test_the_description_matches_at_great_length(self, name: str) -> None:
        found = seen(name, seq_len=65536, heads=1)
        value = {column: float(each.mean()) for column, each in found.items()}
        if name == "clustered":
            assert value["effective_keys"] < 2 * math.sqrt(65536)
            assert value["top64_mass"] > 0.6
        elif name == "local":
            assert value["near_mass"] > 0.95
        elif name == "needle":
            assert value["top64_mass"] > 0.95 > 0.05 > value["near_mass"]
        else:
            assert 0.4 < value["sink_mass"] < 0.6
            assert value["near_mass"] > 0.2

    def test_the_keys_of_a_cluster_have_most_weight_of_its_queries(self) -> None:
        """Keys of one cluster have one direction; the keys near a query's best key have nearly all
        the weight."""
        query, key, _ = (x[0, 0].double() for x in tensors("clustered", seq_len=1024, heads=1))
        weights = torch.softmax(query @ key.T / 8, dim=-1)
        best = torch.nn.functional.normalize(key, dim=-1)
        alike = best[weights.argmax(-1)] @ best.T > 0.5
        assert 10 < alike.sum(-1).double().mean() < 100
        assert (weights * alike).sum(-1).mean() > 0.9

    def test_needles_are_few_and_early_and_have_the_usual_norm(self) -> None:
        query, key, _ = (x[0, 0].double() for x in tensors("needle", seq_len=4096, heads=1))
        weights = torch.softmax(query @ key.T / 8, dim=-1)
        used = (weights.mean(0) > 0.1 / 32).nonzero().flatten()
        assert len(used) == 32
        assert used.max() < 4096 // 8
        assert weights[:, used].sum(-1).mean() > 0.95
        assert float(key[used].norm(dim=-1).mean()) == pytest.approx(8, rel=1e-3)
        assert float(key.norm(dim=-1).mean()) == pytest.approx(8, rel=0.02)
        # Each query has four of them as targets.
        asked_for = weights[:, used] > 0.1
        assert asked_for.sum(-1).double().mean() == pytest.approx(4, abs=0.1)

    def test_local_scores_decrease_with_distance(self) -> None:
        query, key, _ = (x[0].double() for x in tensors("local", seq_len=2048, heads=8))
        scores = query @ key.transpose(-2, -1) / 8
        means = [float(scores.diagonal(-d, -2, -1).mean()) for d in (0, 16, 64, 128, 512)]
        assert means == sorted(means, reverse=True)
        # log(2048) + 4, and lower by the factor e at a distance of 128.
        assert means[0] == pytest.approx(11.6, rel=0.05)
        assert means[3] == pytest.approx(11.6 / math.e, rel=0.2)

    def test_only_the_sinks_family_has_a_sink_and_its_value_is_small(self) -> None:
        _, _, value = tensors("sinks", seq_len=1024)
        length = value.norm(dim=-1)
        assert ((length[..., 0] / length[..., 1:].mean(-1)) < 0.5).all()

    def test_all_queries_of_a_head_have_the_same_score_for_the_sink(self) -> None:
        """Only the other scores change the mass of the sink; other keys have no component in its
        direction."""
        query, key, _ = (x[0].double() for x in tensors("sinks", seq_len=1024, heads=2))
        scores = query @ key.transpose(-2, -1) / 8
        sink = scores[..., 0]
        assert sink.std(-1).max() < 1e-5
        assert 5 < sink.min() < sink.max() < 15
        rest = torch.logsumexp(scores[:, -256:, 1:], dim=-1)
        assert rest.mean(-1).tolist() == pytest.approx(sink[:, 0].tolist(), rel=0.1)
        towards = torch.nn.functional.normalize(key[:, :1], dim=-1)
        assert (key[:, 1:] * towards).sum(-1).abs().max() < 1e-5

    @pytest.mark.parametrize("name", NAMES)
    def test_the_mean_of_the_values_is_not_close_to_zero(self, name: str) -> None:
        _, _, value = tensors(name, seq_len=4096, heads=8)
        common = value.mean(2).square().sum(-1).mean() / value.square().sum(-1).mean()
        assert 0.15 < float(common) < 0.4

    @pytest.mark.parametrize("name", ["local", "sinks"])
    def test_values_of_local_and_sinks_are_smooth(self, name: str) -> None:
        """Values of neighbours correlate (0.5) beyond the common part; values of distant keys do
        not."""
        _, _, value = tensors(name, seq_len=4096, heads=8)
        own = value - value.mean(2, keepdim=True)

        def likeness(distance: int) -> float:
            return float((own[:, :, distance:] * own[:, :, :-distance]).mean())

        assert likeness(1) == pytest.approx(0.5, abs=0.1)
        assert abs(likeness(1024)) < 0.1

    def test_values_of_a_cluster_are_similar(self) -> None:
        _, key, value = (x[0, 0] for x in tensors("clustered", seq_len=1024, heads=1))
        direction = torch.nn.functional.normalize(key, dim=-1)
        same = direction @ direction.T > 0.5
        same.fill_diagonal_(False)
        own = value - value.mean(0)
        products = own @ own.T / 64
        assert float(products[same].mean()) == pytest.approx(0.5, abs=0.1)
        assert abs(float(products[~same].mean())) < 0.05


SHAPES = [
    {"seq_len": 1},
    {"seq_len": 2, "head_dim": 1},
    {"seq_len": 40, "head_dim": 3},
    {"seq_len": 33, "head_dim": 7, "heads": 4, "kv_heads": 2, "batch": 2},
    {"seq_len": 5, "key_len": 64},
    {"seq_len": 64, "key_len": 5},
    {"seq_len": 7, "key_len": 1},
    {"seq_len": 1, "key_len": 300, "heads": 3, "kv_heads": 1},
]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_shape_has_finite_numbers(
    name: str, changes: dict[str, object], causal: bool
) -> None:
    wanted = asked(name, **(changes | {"causal": causal}))
    query, key, value = tensors(name, **(changes | {"causal": causal}))
    assert query.shape == (wanted.batch, wanted.heads, wanted.seq_len, wanted.head_dim)
    assert key.shape == (wanted.batch, wanted.kv_heads, wanted.key_len, wanted.head_dim)
    assert value.shape == key.shape
    assert all(x.isfinite().all() for x in (query, key, value))
    assert all(x.is_contiguous() for x in (query, key, value))


class TestNumbers:
    @pytest.mark.parametrize("name", NAMES)
    def test_numbers_depend_only_on_the_case(self, name: str) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = tensors(name, seq_len=100)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        for one, again in zip(first, tensors(name, seq_len=100), strict=True):
            assert torch.equal(one, again)
        for one, other in zip(first, tensors(name, seq_len=100, seed=1), strict=True):
            assert not torch.isclose(one, other).any(-1).all()

    @pytest.mark.parametrize("name", NAMES)
    def test_every_head_has_its_own_numbers(self, name: str) -> None:
        query, key, value = tensors(name, seq_len=64, batch=2, heads=4, kv_heads=2)
        for x in (query, key, value):
            heads = x.flatten(0, 1)
            for i in range(len(heads)):
                for j in range(i):
                    assert not torch.allclose(heads[i], heads[j], atol=0.1)

    @pytest.mark.parametrize("name", NAMES)
    def test_another_dtype_has_the_same_numbers(self, name: str) -> None:
        whole = tensors(name, seq_len=50)
        for one, other in zip(tensors(name, seq_len=50, dtype="bfloat16"), whole, strict=True):
            assert torch.equal(one, other.bfloat16())

    @pytest.mark.parametrize("name", NAMES)
    def test_the_detail_describes_the_inputs(self, name: str) -> None:
        detail = inputs.load(asked(name, seed=7), {}).detail
        assert detail == f"{families.DETAILS[name]}, seed 7"


@pytest.mark.parametrize(
    ("name", "column", "low"),
    [
        ("clustered", "top64_mass", 0.9),
        ("local", "near_mass", 0.9),
        ("needle", "top64_mass", 0.9),
        ("sinks", "sink_mass", 0.4),
    ],
)
def test_query_heads_attend_to_the_keys_of_their_own_group(
    name: str, column: str, low: float
) -> None:
    """The properties of a family hold for grouped heads, and fail with the keys of another
    group."""
    query, key, _ = tensors(name, seq_len=1024, heads=6, kv_heads=2)
    rows = torch.arange(0, 1024, 8)

    def found(keys: Tensor) -> Tensor:
        return vars(describe(query, keys, rows, torch.ones(128), causal=True))[column]

    assert found(key).min() > low
    assert found(key.flip(1)).max() < 0.9 * low


@pytest.mark.parametrize("name", ["local", "sinks"])
def test_queries_have_the_positions_of_the_last_keys(name: str) -> None:
    """Few queries after many keys have the last positions; too many queries begin before the first
    key."""
    for seq_len, key_len in ((16, 1024), (1500, 1024)):
        query, key, _ = tensors(name, seq_len=seq_len, key_len=key_len, causal=False, heads=4)
        scores = query.double() @ expand_heads(key.double(), 4).transpose(-2, -1)
        best = scores[..., 1:].argmax(-1) + 1  # without a sink
        position = torch.arange(seq_len) + key_len - seq_len
        distance = (best - position.clamp(min=0)).abs().double().median()
        assert distance < 64


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_linear_in_the_length(name: str) -> None:
    def peak(length: int) -> int:
        wanted = asked(name, seq_len=length, heads=2)
        return memory.peak_bytes(lambda: families.draw(name, wanted), torch.device("cpu"))

    assert peak(16384) < 4.6 * peak(4096)
