"""A language model on a text: its losses, their confidence interval, and the measured times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import variants
from bench.schema.model_row import ModelRow
from bench.schema.outcome import Status
from bench.workloads.model import attending, measure, reading, stopwatch
from bench.workloads.model.measure import open_model
from bench.workloads.model.plan import Setup, attentions, plan
from bench.workloads.model.reading import BLOCKS, Reading, can_be_chunked, looks_ahead, read
from bench.workloads.model.stopwatch import Stopwatch
from bench.workloads.model.text import NOVEL, ModelError, read_text
from tests.tiny_model import make_model, save_model, save_text, token_ids
from variants.pretrained.model_call import AttentionFunction

CPU = torch.device("cpu")
LENGTH = 64


class TestReading:
    @pytest.mark.parametrize("in_chunks", [True, False])
    def test_losses_equal_those_of_transformers(
        self, in_chunks: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "CHUNK", 7)
        network, tokens = make_model(dtype=torch.float64), token_ids(LENGTH + 1)
        expected = network(input_ids=tokens[None], labels=tokens[None]).loss.item()
        found = read(network, tokens, Stopwatch(CPU), in_chunks=in_chunks)
        assert found.losses.shape == found.best.shape == (LENGTH,)
        # transformers rounds logits to float32.
        assert found.losses.mean().item() == pytest.approx(expected, rel=1e-6)

    def test_perplexity_equals_a_computation_with_numpy(self) -> None:
        network, tokens = make_model(dtype=torch.float64), token_ids(LENGTH + 1)
        with torch.no_grad():
            logits = network(input_ids=tokens[None, :-1]).logits[0].numpy()
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        chosen = [chances[i, token] for i, token in enumerate(tokens[1:].tolist())]
        found = read(network, tokens, Stopwatch(CPU), in_chunks=True)
        assert found.perplexity == pytest.approx(np.prod(chosen) ** (-1 / LENGTH), rel=1e-10)
        assert found.best.tolist() == chances.argmax(1).tolist()

    def test_capped_logits_are_not_computed_in_chunks(self) -> None:
        tokens = token_ids(LENGTH + 1)
        assert can_be_chunked(make_model(), tokens[:16])
        capped = make_model("Gemma2", head_dim=8, final_logit_softcapping=5.0)
        assert not can_be_chunked(capped, tokens[:16])
        expected = capped(input_ids=tokens[None], labels=tokens[None]).loss.item()
        found = read(capped, tokens, Stopwatch(CPU), in_chunks=False)
        assert found.losses.mean().item() == pytest.approx(expected, rel=1e-5)

    def test_a_model_that_sees_later_tokens_is_detected(self) -> None:
        assert not looks_ahead(make_model(), token_ids(16))
        assert looks_ahead(make_model("Bert"), token_ids(16))

    def test_losses_must_be_finite(self) -> None:
        network = make_model()
        with torch.no_grad():
            network.lm_head.weight[3] = math.nan
        tokens = token_ids(LENGTH + 1)
        with pytest.raises(ArithmeticError, match=f"losses of {LENGTH} of {LENGTH} tokens are not"):
            read(network, tokens, Stopwatch(CPU), in_chunks=True)


def drawn(losses: torch.Tensor) -> Reading:
    return Reading(losses, torch.zeros(len(losses), dtype=torch.int64))


class TestRatio:
    def test_losses_with_a_constant_difference_have_an_exact_ratio(self) -> None:
        losses = torch.rand(1000, dtype=torch.float64)
        assert drawn(losses + 0.5).ratio(drawn(losses)) == pytest.approx((math.exp(0.5),) * 3)
        assert drawn(losses).ratio(drawn(losses)) == (1, 1, 1)

    def test_the_ratio_is_that_of_the_perplexities(self) -> None:
        one, other = (drawn(torch.rand(999, dtype=torch.float64)) for _ in range(2))
        ratio, low, high = one.ratio(other)
        assert ratio == pytest.approx(one.perplexity / other.perplexity, rel=1e-12)
        assert low < ratio < high

    @pytest.mark.parametrize("kept", [0.0, 0.8])
    def test_the_interval_has_its_coverage_if_neighbouring_losses_correlate(
        self, kept: float
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        covered, trials = 0, 1000
        noise = torch.randn(trials, 2048, dtype=torch.float64, generator=generator)
        series = torch.zeros_like(noise)
        for i in range(1, 2048):
            series[:, i] = kept * series[:, i - 1] + noise[:, i]
        for row in series:
            _, low, high = drawn(row + 0.1).ratio(drawn(torch.zeros_like(row)))
            covered += low <= math.exp(0.1) <= high
        # Three standard errors of the counted share.
        assert covered / trials == pytest.approx(0.95, abs=0.021)

    def test_agreement_is_the_share_of_equal_predictions(self) -> None:
        losses = torch.zeros(4)
        one, other = (Reading(losses, torch.tensor(best)) for best in ([1, 2, 3, 4], [1, 2, 0, 0]))
        assert one.agreement(other) == 0.5


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("files")
    model = save_model(folder / "tiny")
    return Setup(str(model), save_text(folder / "text.txt"), "cpu", "float32", 1)


def row(setup: Setup, text: str, layers: tuple[int, ...] = (), seq_len: int = LENGTH) -> ModelRow:
    (case,) = plan(setup, attentions([text]), [seq_len], layers).cases
    return measure.measure(case, setup)[0]


class TestMeasure:
    def test_exact_attention_changes_no_number(self, setup: Setup) -> None:
        for text in ("full implementation=sdpa", f"sliding_window window_size={LENGTH}"):
            found = row(setup, text)
            assert found.status is Status.OK, found.reason
            assert found.perplexity_ratio == pytest.approx(1, abs=1e-5)
            assert found.perplexity == pytest.approx(found.exact_perplexity, rel=1e-5)
            assert found.next_token_agreement == 1

    def test_numbers_are_those_of_the_model_with_the_variant(self, setup: Setup) -> None:
        found = row(setup, "sliding_window window_size=2", layers=(1,))
        network = make_model()
        tokens = measure._opened[0].tokens[: LENGTH + 1]
        exact = read(network, tokens, Stopwatch(CPU), in_chunks=False)
        window = variants.create("sliding_window", window_size=2)
        variants.replace_attention(network, window, layers=[1])
        changed = read(network, tokens, Stopwatch(CPU), in_chunks=False)
        assert found.exact_perplexity == pytest.approx(exact.perplexity, rel=1e-5)
        assert found.perplexity == pytest.approx(changed.perplexity, rel=1e-5)
        assert found.perplexity_ratio == pytest.approx(changed.perplexity / exact.perplexity, 1e-5)
        assert abs(found.perplexity_ratio - 1) > 0.01
        assert found.next_token_agreement == pytest.approx(changed.agreement(exact))
        assert row(setup, "sliding_window window_size=2").perplexity != found.perplexity

    @pytest.mark.parametrize(("layers", "count"), [((), 3), ((0, 2), 2)])
    def test_times_are_of_calls_of_the_variant_interleaved_with_exact_calls(
        self, setup: Setup, layers: tuple[int, ...], count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 0.0
        order: list[str] = []
        attend = AttentionFunction.__call__

        def slow(self: AttentionFunction, module: Any, *call: Any, **options: Any) -> Any:
            nonlocal now
            name = self.attention.info.name if self.replaces(module) else "other"
            order.append(name)
            now += {"sliding_window": 3, "full": 5, "other": 7}[name]
            return attend(self, module, *call, **options)

        loss = reading._losses

        def slow_loss(logits: Any, targets: Any, watch: Stopwatch) -> Any:
            nonlocal now
            with watch.span(reading.LOSS):
                now += 1000
            return loss(logits, targets, watch)

        open_model(setup)
        monkeypatch.setattr(stopwatch, "perf_counter", lambda: now)
        monkeypatch.setattr(AttentionFunction, "__call__", slow)
        monkeypatch.setattr(reading, "_losses", slow_loss)
        found = row(setup, "sliding_window window_size=8", layers)
        others = 3 - count
        assert found.attention_per_token_ms == pytest.approx(1e3 * 3 * count / LENGTH)
        assert found.exact_attention_per_token_ms == pytest.approx(1e3 * 5 * count / LENGTH)
        assert found.time_per_token_ms == pytest.approx(1e3 * (3 * count + 7 * others) / LENGTH)
        assert found.speedup_vs_exact == pytest.approx(5 / 3)
        assert found.passes == 1
        # After the check of `replace_attention` and the untimed calls, the calls alternate.
        timed = [name for name in order[3:] if name != "other"][2:]
        pairs = [["full", "sliding_window"], ["sliding_window", "full"]]
        assert timed == [name for pair in (pairs * 2)[:count] for name in pair]

    def test_no_timed_call_reads_a_number_of_a_tensor(
        self, setup: Setup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a GPU each of these reads waits for the device, and the time would contain it."""
        inside: list[str] = []
        reads: list[list[str]] = []
        span = Stopwatch.span

        @contextmanager
        def spied(self: Stopwatch, name: str) -> Iterator[None]:
            inside.append(name)
            try:
                with span(self, name):
                    yield
            finally:
                inside.pop()

        class Spy(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                if func is torch.ops.aten._local_scalar_dense.default:
                    reads.append(list(inside))
                return func(*args, **(kwargs or {}))

        monkeypatch.setattr(Stopwatch, "span", spied)
        with Spy():
            assert row(setup, "sliding_window window_size=8").status is Status.OK
        assert reads  # of the losses, for example
        timed = {attending.OWN, attending.EXACT}
        assert not [names for names in reads if timed & set(names)]

    def test_failures_are_rows_and_leave_the_model_unchanged(
        self, setup: Setup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = row(setup, "linformer projected_len=64")
        assert found.status is Status.UNSUPPORTED
        assert "linformer does not support 'causal'" in found.reason

        class Failing:
            def __init__(self, error: BaseException) -> None:
                self.error = error

            def __call__(self, *_: Any, **__: Any) -> Any:
                raise self.error

        for error, status in (
            (MemoryError("no more"), Status.OUT_OF_MEMORY),
            (RuntimeError("cannot read /somewhere/here/file"), Status.ERROR),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(measure, "read", Failing(error))
                failed = row(setup, "full implementation=auto", seq_len=96)
            assert failed.status is status
            assert "/somewhere" not in failed.reason
        with monkeypatch.context() as patch:
            patch.setattr(attending.Timed, "__call__", lambda *_, **__: (torch.tensor(1.0), None))
            assert row(setup, "full implementation=auto").status is Status.ERROR
        assert measure._opened[0].network.config._attn_implementation == measure.OWN_ATTENTION
        assert row(setup, "full implementation=auto").perplexity_ratio == pytest.approx(1, abs=1e-5)

    def test_numbers_that_are_not_finite_give_a_failed_row(
        self, setup: Setup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attend = type(variants.create("linear")).attend

        def broken(*call: Any, **options: Any) -> Any:
            return attend(*call, **options) * math.nan

        monkeypatch.setattr(type(variants.create("linear")), "attend", broken)
        found = row(setup, "linear feature_map=elu")
        assert found.status is Status.ERROR
        assert (
            found.reason
            == f"ArithmeticError: the losses of {LENGTH} of {LENGTH} tokens are not finite"
        )


class TestPlan:
    def test_default_variants_are_all_that_support_causal(self) -> None:
        found = attentions([])
        names = {attention.info.name for attention in found}
        assert names == {
            name for name, cls in variants.REGISTRY.items() if "causal" in cls.info.supports
        }
        assert [a.implementation for a in found if a.info.name == "full"] == ["auto"]
        assert [a for a in found if a.info.name == "lsh"] == [variants.create("lsh")]
        curves = [a for a in attentions([], "grid") if a.info.name == "lsh"]
        assert curves == attentions(["lsh"]) == variants.grid("lsh")
        assert attentions(["lsh"], "default") == [variants.create("lsh")]

    def test_cases_are_sorted_by_length_without_duplicates(self, setup: Setup) -> None:
        made = plan(setup, attentions(["full", "full"]), [64, 32, 64], (2, 0, 2))
        lengths = [case.seq_len for case in made.cases]
        assert lengths == sorted(lengths)
        assert len({case.case_id for case in made.cases}) == len(made.cases) == 8
        assert {case.layers for case in made.cases} == {"0 2"}
        assert {case.model for case in made.cases} == {"tiny"}

    def test_invalid_plans_are_refused(self, setup: Setup, tmp_path: Path) -> None:
        short = Setup(setup.model, save_text(tmp_path / "short.txt", 40), "cpu", "float32", 1)
        full = attentions(["full"])
        for given, seq_len, layers, message in (
            (setup, 129, (), "seq_len must be at most 128, the model's context; got 129"),
            (setup, 64, (3,), r"layers must be numbers from 0 to 2; got \[3\]"),
            (short, 40, (), "at least 41 tokens, .* got 40, so .* a seq_len of at most 39$"),
        ):
            with pytest.raises(ModelError, match=message):
                plan(given, full, [seq_len], layers)
        assert plan(short, full, [39], ()).cases

    def test_the_novel_is_long_enough_and_has_its_license_text(self) -> None:
        novel = read_text(NOVEL)
        assert "Northanger Abbey" in novel.title
        assert "public domain" in novel.license
        # A token of an English language model is rarely longer than a word.
        assert len(novel.words.split()) > 8193
        assert novel.words.isascii()


def test_a_length_has_at_least_two_tokens_for_each_block() -> None:
    from bench.cli.model_command import model

    (option,) = [p for p in model.params if p.name == "seq_lens"]
    assert option.type.min == 2 * BLOCKS  # type: ignore[attr-defined]
