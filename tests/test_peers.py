"""Public implementations against the dense definitions that they claim, where the packages are
installed.

The packages are not in the environment of the tests; without them these tests are skipped.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bench.peers
import variants
from bench.loop import worker_start
from bench.loop.executor import WorkerCall
from bench.loop.local_executor import LocalExecutor
from bench.loop.run_loop import run
from bench.peers import packages, performer_pytorch
from bench.plan.sweep import read
from bench.schema.outcome import DIFFERS, Status
from bench.workloads.attention import measure_case
from bench.workloads.sweep_workload import SweepWorkload
from tests.cases import case, fresh_worker, settings
from variants import UnsupportedError
from variants.contract.added import ADDED
from variants.contract.definitions import expand_heads

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
FOUND = {
    peer: added
    for peer, added in ADDED.items()
    if added.attend.__module__.startswith(f"{bench.peers.__name__}.")
}
for _peer in FOUND:  # imported only for these tests
    del ADDED[_peer]
PEERS = sorted(FOUND)
SAME = [peer for peer in PEERS if not FOUND[peer].differs]
OTHER = [peer for peer in PEERS if FOUND[peer].differs]
SETTINGS: dict[str, dict[str, Any]] = {
    "bigbird": {"block_size": 16, "num_random_blocks": 2},
    "longformer": {"window_size": 16, "num_global_tokens": 8},
    "lsh": {"bucket_size": 32, "shared_qk": True},
    "performer": {"num_features": 32},
    "sliding_window": {"window_size": 16},
}
CAUSAL = {
    "local_attention",
    "fast_transformers",
}  # of peers of the same function
ANY_LENGTH = {"local_attention", "fast_transformers"}
FLOAT32_ALONE = {"fast_transformers"}
BACKWARD = 5e-6  # relative error of gradients in float32

pytestmark = pytest.mark.filterwarnings("ignore")  # from packages of others


@pytest.fixture(autouse=True)
def _added() -> Iterator[None]:
    ADDED.update(FOUND)
    yield
    for peer in FOUND:
        del ADDED[peer]


def peer(variant: str, name: str, **more: Any) -> variants.Attention:
    """The peer at small settings; skips the test if it cannot run."""
    attention = variants.create(
        variant, implementation=name, **{**SETTINGS.get(variant, {}), **more}
    )
    if reason := attention.cannot_run(CPU):
        pytest.skip(reason)
    return attention


def tensors(attention: variants.Attention, seq_len: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    query, key, value = torch.randn(3, 2, 4, seq_len, 32, generator=generator).to(dtype).unbind()
    return [query, query if getattr(attention, "shared_qk", False) else key, value]


def distance(out: Tensor, wanted: Tensor) -> float:
    return float((out.double() - wanted.double()).norm() / wanted.double().norm())


def dense(
    attention: variants.Attention, query: Tensor, key: Tensor, value: Tensor, **call: Any
) -> Tensor:
    shared = key is query
    query, key, value = query.double(), key.double(), value.double()
    weights = attention.weights(query, query if shared else key, **call)
    return weights @ expand_heads(value, query.shape[1])


class TestSame:
    """Peers without a declared difference compute the definition of the variant."""

    @pytest.mark.parametrize(("variant", "name"), SAME)
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("seq_len", [256, 257])
    @pytest.mark.parametrize("scale", [None, 0.3])
    def test_the_output_is_that_of_the_dense_definition(
        self, variant: str, name: str, causal: bool, seq_len: int, scale: float | None
    ) -> None:
        attention = peer(variant, name)
        given = tensors(attention, seq_len, torch.float32)
        if (causal and name not in CAUSAL) or (seq_len % 2 and name not in ANY_LENGTH):
            with pytest.raises(UnsupportedError, match=r"causal|needs a length that is a multiple"):
                attention(*given, causal=causal, scale=scale)
            return
        copies = [x.clone() for x in given]
        out = attention(*given, causal=causal, scale=scale)
        assert out.shape == given[0].shape
        assert distance(out, dense(attention, *given, causal=causal, scale=scale)) < 1e-6
        for x, copy in zip(given, copies, strict=True):
            torch.testing.assert_close(x, copy, rtol=0, atol=0)

    @pytest.mark.parametrize(("variant", "name"), SAME)
    def test_the_error_in_bfloat16_is_rounding(self, variant: str, name: str) -> None:
        attention = peer(variant, name)
        given = tensors(attention, 256, torch.bfloat16)
        if name in FLOAT32_ALONE:
            with pytest.raises(UnsupportedError, match="takes only float32"):
                attention(*given)
            return
        out = attention(*given)
        assert out.dtype == torch.bfloat16
        assert distance(out, dense(attention, *given)) < 1e-2

    @pytest.mark.parametrize(("variant", "name"), SAME)
    def test_the_gradients_are_those_of_the_dense_definition(self, variant: str, name: str) -> None:
        attention = peer(variant, name)
        given = [x.requires_grad_() for x in tensors(attention, 256, torch.float32)]
        for causal in (False, True) if name in CAUSAL else (False,):
            call = {"causal": causal}
            found = torch.autograd.grad(attention(*given, **call).square().sum(), given)
            wanted = torch.autograd.grad(dense(attention, *given, **call).square().sum(), given)
            for gradient, want in zip(found, wanted, strict=True):
                assert distance(gradient, want) < BACKWARD

    @pytest.mark.parametrize(("variant", "name"), SAME)
    def test_grouped_heads_are_supported(self, variant: str, name: str) -> None:
        attention = peer(variant, name)
        query, key, value = tensors(attention, 256, torch.float32)
        given = (query, key[:, :2], value[:, :2])
        assert distance(attention(*given), dense(attention, *given)) < 1e-6

    @pytest.mark.parametrize("feature_map", ["elu", "relu"])
    def test_linear_supports_both_feature_maps(self, feature_map: str) -> None:
        attention = peer("linear", "fast_transformers", feature_map=feature_map)
        given = tensors(attention, 100, torch.float32)
        assert distance(attention(*given), dense(attention, *given)) < 1e-6

    def test_bigbird_supports_the_lengths_at_which_the_module_draws_blocks_for_each_head(
        self,
    ) -> None:
        attention = peer("bigbird", "transformers", block_size=64)
        given = tensors(attention, 1024, torch.float32)
        assert distance(attention(*given), dense(attention, *given)) < 1e-6

    def test_longformer_supports_no_global_tokens(self) -> None:
        attention = peer("longformer", "transformers", num_global_tokens=0)
        given = tensors(attention, 256, torch.float32)
        assert distance(attention(*given), dense(attention, *given)) < 1e-6


class TestOther:
    """Peers with a declared difference differ, and only in the declared way."""

    @pytest.mark.parametrize(("variant", "name"), OTHER)
    def test_the_output_differs_from_the_dense_definition(self, variant: str, name: str) -> None:
        attention = peer(variant, name)
        given = tensors(attention, 256, torch.float32)
        assert distance(attention(*given), dense(attention, *given)) > 1e-3

    @pytest.mark.parametrize(("variant", "name"), OTHER)
    @pytest.mark.parametrize("causal", [False, True])
    def test_draws_are_the_same_each_time_and_do_not_change_the_global_state(
        self, variant: str, name: str, causal: bool
    ) -> None:
        attention = peer(variant, name)
        given = tensors(attention, 256, torch.float32)
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = attention(*given, causal=causal)
        torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
        torch.manual_seed(2)
        torch.testing.assert_close(attention(*given, causal=causal), first, rtol=0, atol=0)

    @pytest.mark.parametrize("name", ["reformer_pytorch", "transformers"])
    @pytest.mark.parametrize("causal", [False, True])
    def test_the_scores_of_lsh_are_right_where_two_chunks_hold_all_keys(
        self, name: str, causal: bool
    ) -> None:
        # For any rotations: each of two chunks sees the other chunk, and therefore every key.
        attention = peer("lsh", name, bucket_size=32)
        everything = variants.create("lsh", bucket_size=64, shared_qk=True)
        given = tensors(attention, 64, torch.float32)
        for scale in (None, 0.3):
            wanted = dense(everything, *given, causal=causal, scale=scale)
            assert distance(attention(*given, causal=causal, scale=scale), wanted) < 1e-5

    @pytest.mark.parametrize("name", ["reformer_pytorch", "transformers"])
    def test_lsh_needs_one_tensor_for_queries_and_keys(self, name: str) -> None:
        attention = peer("lsh", name, shared_qk=False)
        with pytest.raises(UnsupportedError, match="set shared_qk=True"):
            attention(*tensors(attention, 64, torch.float32))

    def test_performer_is_the_product_of_features_plus_a_constant(self) -> None:
        attention = peer("performer", "performer_pytorch")
        query, key, value = tensors(attention, 64, torch.float32)
        directions = performer_pytorch.module(32, 32, False, 0, CPU).projection_matrix.double()

        def features(x: Tensor, over: tuple[int, ...]) -> Tensor:
            x = x.double() * 32**-0.25
            turned = x @ directions.T
            shift = turned.amax(over, keepdim=True)
            return (turned - x.square().sum(-1, keepdim=True) / 2 - shift).exp() + 1e-4

        kernel = features(query, (-1,)) @ features(key, (-1, -2)).transpose(-2, -1)
        wanted = kernel / kernel.sum(-1, keepdim=True) @ value.double()
        assert distance(attention(query, key, value), wanted) < 1e-5


class TestRows:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Any:
        with fresh_worker():
            yield

    def test_a_peer_of_the_same_function_is_checked(self) -> None:
        attention = peer("sliding_window", "local_attention", window_size=8)
        asked = case(implementation="local_attention")
        row, _ = measure_case.measure(asked, settings())
        assert row.status is Status.OK
        assert (row.reason, row.implementation_used) == ("", "local_attention")
        assert row.impl_error_rel_l2 is not None
        assert row.impl_error_rel_l2 < 1e-6
        assert asked.attention == attention

    def test_a_peer_with_a_difference_names_it_in_its_row(self) -> None:
        peer("lsh", "reformer_pytorch")
        asked = case(
            variant="lsh",
            implementation="reformer_pytorch",
            hyperparameters="bucket_size=8 num_hashes=1 seed=0 shared_qk=True",
        )
        row, _ = measure_case.measure(asked, settings())
        assert row.status is Status.OK
        assert row.reason.startswith(DIFFERS + "draws its own rotations")
        assert row.impl_error_rel_l2 is row.mass_recall is row.useful_flops is None
        assert row.approx_error_rel_l2 is not None
        assert row.approx_error_rel_l2 > 0


class TestMissing:
    def test_importing_the_peers_imports_none_of_the_packages(self) -> None:
        code = (
            "import bench.peers, sys; from variants.contract.added import ADDED; "
            "print(*{m.partition('.')[0] for m in sys.modules}, len(ADDED))"
        )
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        wanted = {
            "transformers",
            "local_attention",
            "reformer_pytorch",
            "performer_pytorch",
            "linear_attention_transformer",
            "fast_transformers",
            "fla",
        }
        assert not wanted & set(said)
        assert int(said[-1]) == len(PEERS) > 5

    @pytest.mark.parametrize(("variant", "name"), PEERS)
    def test_a_peer_without_its_package_gives_a_row_with_the_package_to_install(
        self, variant: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(packages, "find_spec", lambda _: None)
        packages.missing.cache_clear()
        row, _ = measure_case.measure(
            case(
                variant=variant,
                implementation=name,
                hyperparameters=variants.create(
                    variant, **SETTINGS.get(variant, {})
                ).hyperparameters,
            ),
            settings(),
        )
        packages.missing.cache_clear()
        assert row.status is Status.UNSUPPORTED
        assert "is not installed; pip install " in row.reason or "for CUDA" in row.reason

    def test_an_error_when_a_package_is_imported_is_the_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "broken_package.py").write_text("raise OSError('no such library')")
        monkeypatch.syspath_prepend(tmp_path)
        reason = packages.missing("broken_package", "pip install it")
        assert reason == (
            "broken_package cannot be imported (OSError: no such library); pip install it"
        )


def test_the_sweep_names_every_peer_and_an_own_implementation_of_its_variant() -> None:
    cases = read("peers").cases("cpu", {})
    asked = [(c.shape, c.variant, c.attention.implementation, c.attention) for c in cases]
    assert {(variant, name) for _, variant, name, _ in asked} >= set(PEERS)
    ours = {(shape, attention) for shape, _, name, attention in asked if name == "auto"}
    for shape, variant, name, attention in asked:
        if (variant, name) in PEERS:
            assert (shape, replace(attention, implementation="auto")) in ours


def test_a_run_with_peers_measures_them_in_the_worker_and_names_them(tmp_path: Path) -> None:
    peer("sliding_window", "local_attention")
    sweep = read("peers").overridden(
        [
            "seq_len=32",
            "heads=1",
            "head_dim=8",
            "dtype=float32",
            "causal=false",
            "direction=forward",
            "variant=sliding_window window_size=8",
            "implementation=auto,local_attention",
        ]
    )
    executor = LocalExecutor(WorkerCall(worker_start.start, (False, ["bench.peers"])))
    workload = SweepWorkload(sweep, "cpu", {}, 0.01, 60.0, ["bench.peers"])
    rows = run(workload, tmp_path, executor)
    assert [row.status for row in rows] == [Status.OK, Status.OK]
    assert '"modules": ["bench.peers"]' in (tmp_path / "journal.jsonl").read_text()
    assert "sliding_window/local_attention" in (tmp_path / "environment.json").read_text()
