"""Tiny models: the tasks have their stated properties, and training distinguishes attention that
works from attention that does not."""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from bench.cli import commands as command
from bench.loop import executor, run_loop
from bench.loop.local_executor import LocalExecutor
from bench.loop.progress import Progress
from bench.plan.sweep import SweepError
from bench.schema.origin import Origin
from bench.schema.outcome import Status
from bench.schema.training_row import TrainingCase, TrainingRow
from bench.workloads.training import training_summary
from bench.workloads.training.fit import Trained, fit, learned
from bench.workloads.training.settings import attention_at
from bench.workloads.training.tasks import ANSWERS, NO_ANSWER, TASKS, Batch, Copy, Recall
from bench.workloads.training.tiny_model import TinyModel
from bench.workloads.training.training_workload import TrainingWorkload, use_one_thread
from variants.contract.call import Call
from variants.full import FullAttention

TRAINABLE = sorted(n for n, cls in variants.REGISTRY.items() if "backward" in cls.info.supports)
LENGTHS = (8, 32, 37)


def drawn(task: str, seq_len: int, batch: int = 20, seed: int = 0) -> Batch:
    return TASKS[task](seq_len).draw(batch, torch.Generator().manual_seed(seed))


# The tasks.


@pytest.mark.parametrize("seq_len", LENGTHS)
def test_the_answers_of_copy_are_the_symbols_in_their_order(seq_len: int) -> None:
    batch, asked = drawn("copy", seq_len), seq_len // 2
    assert batch.tokens.shape == batch.answers.shape == batch.sources.shape == (20, seq_len)
    for tokens, answers in zip(batch.tokens.tolist(), batch.answers.tolist(), strict=True):
        assert tokens[asked:] == [ANSWERS] * (seq_len - asked)
        assert answers[-asked:] == tokens[:asked]
        assert answers[:-asked] == [NO_ANSWER] * (seq_len - asked)


@pytest.mark.parametrize("seq_len", LENGTHS)
def test_the_answers_of_recall_are_the_values_of_the_keys(seq_len: int) -> None:
    batch, pairs = drawn("recall", seq_len), seq_len // 4
    first = 2 * pairs  # the token of value 0
    for tokens, answers in zip(batch.tokens.tolist(), batch.answers.tolist(), strict=True):
        value = {tokens[at]: tokens[at + 1] - first for at in range(0, 2 * pairs, 2)}
        assert len(value) == pairs
        assert all(0 <= key < first for key in value)
        assert answers[: 2 * pairs] == [NO_ANSWER] * 2 * pairs
        assert answers[2 * pairs :] == [value[key] for key in tokens[2 * pairs :]]
        assert set(tokens[2 * pairs :]) == set(value)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seq_len", LENGTHS)
def test_a_source_is_the_position_of_the_answer(task: str, seq_len: int) -> None:
    batch = drawn(task, seq_len)
    asked = batch.answers != NO_ANSWER
    found = batch.tokens.gather(1, batch.sources)[asked]
    first = 2 * (seq_len // 4) if task == "recall" else 0
    assert_close(found - first, batch.answers[asked])
    assert int(batch.tokens.max()) < TASKS[task](seq_len).vocabulary


@pytest.mark.parametrize("task", TASKS)
def test_a_query_token_does_not_determine_its_answer(task: str) -> None:
    """The best table from a position, its token and the next token to an answer, fitted on many
    sequences, is no better than one answer for all."""
    seen: dict[tuple[int, ...], Counter[int]] = {}
    right = total = 0
    for batch, counted in ((drawn(task, 8, 4000), True), (drawn(task, 8, 2000, seed=1), False)):
        for tokens, answers in zip(batch.tokens.tolist(), batch.answers.tolist(), strict=True):
            for at, answer in enumerate(answers):
                if answer == NO_ANSWER:
                    continue
                context = at, tokens[at], *tokens[at + 1 : at + 2]
                counts = seen.setdefault(context, Counter())
                if counted:
                    counts[answer] += 1
                else:
                    total += 1
                    right += bool(counts) and counts.most_common(1)[0][0] == answer
    assert right / total < 1 / ANSWERS + 0.05


@pytest.mark.parametrize("task", TASKS)
def test_chance_is_the_most_frequent_answer_of_each_sequence(task: str) -> None:
    batch = drawn(task, 32)
    counts = [Counter(a for a in row if a != NO_ANSWER) for row in batch.answers.tolist()]
    expected = sum(c.most_common(1)[0][1] for c in counts) / sum(c.total() for c in counts)
    assert batch.chance == pytest.approx(expected)
    assert 1 / ANSWERS <= batch.chance < 0.6


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_depends_only_on_the_generator(task: str) -> None:
    state = torch.get_rng_state()
    assert torch.equal(drawn(task, 32).tokens, drawn(task, 32).tokens)
    assert not torch.equal(drawn(task, 32).tokens, drawn(task, 32, seed=1).tokens)
    assert torch.equal(torch.get_rng_state(), state)


# Settings.


@pytest.mark.parametrize("seq_len", [32, 64])
@pytest.mark.parametrize("name", [n for n in TRAINABLE if variants.REGISTRY[n].info.exact_when])
def test_an_approximation_is_not_exact_at_its_training_length(name: str, seq_len: int) -> None:
    attention = attention_at(name, seq_len)
    causal = attention.info.causal_choices[-1]
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, seq_len, 16, generator=generator)
    exact = variants.create("full")(query, key, value, causal=causal)
    out = attention(query, key, value, causal=causal)
    assert float((out - exact).norm() / exact.norm()) > 0.05


def test_written_hyperparameters_hold_and_the_others_follow_the_length() -> None:
    attention = attention_at("lsh num_hashes=3", 64)
    assert (attention.num_hashes, attention.bucket_size) == (3, 8)
    assert attention_at("hierarchical", 64).block_size == 8  # increases in steps of two
    assert attention_at("compressed", 64).block_size == 4
    assert attention_at("full", 32) == variants.create("full")
    assert attention_at("chunked_state rule=gated_delta", 32).rule == "gated_delta"


@pytest.mark.parametrize("seq_len", [8, 9, 30])
@pytest.mark.parametrize("name", TRAINABLE)
def test_every_variant_has_settings_at_any_length(name: str, seq_len: int) -> None:
    assert attention_at(name, seq_len).info.name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "slidng_window",
            "unknown variant 'slidng_window' (did you mean 'sliding_window'?); known",
        ),
        ("", "unknown variant ''"),
        ("full window_size=2", "full has no hyperparameter 'window_size'; it has: implementation"),
        ("lsh num_hashes=none", "lsh: num_hashes must be an integer of at least 1; got 'none'"),
        ("lsh many", "write hyperparameters as name=value; got 'many'"),
    ],
)
def test_an_invalid_attention_is_refused(text: str, message: str) -> None:
    with pytest.raises(SweepError) as caught:
        attention_at(text, 32)
    assert str(caught.value).startswith(message)


def test_a_variant_without_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    info = dataclasses.replace(FullAttention.info, supports=frozenset({"causal"}))
    monkeypatch.setattr(FullAttention, "info", info)
    with pytest.raises(SweepError, match=r"^full cannot be trained: it has no backward pass$"):
        attention_at("full", 32)


# Keys that a token can reach.


def test_windows_reach_near_tokens_and_pass_information_on() -> None:
    """Two layers with 4 tokens back; each tells the next token its predecessor."""
    model = TinyModel(variants.create("sliding_window", window_size=4), Copy(32), seed=0)
    back = torch.arange(32)[:, None] - torch.arange(32)
    assert torch.equal(model.sees(32, passed_on=False), (back >= 0) & (back <= 4))
    assert torch.equal(model.sees(32, passed_on=True), (back >= 0) & (back <= 9))


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_pattern_includes_every_position_that_a_token_depends_on(name: str) -> None:
    """A pattern with too few positions would hide a failure to learn."""
    attention = attention_at(name, 32)
    model = TinyModel(attention, Copy(32), seed=0).double()
    seen = model.sees(32, passed_on=True)
    tokens = torch.randint(ANSWERS, (8, 32), generator=torch.Generator().manual_seed(0))
    hidden: list[Tensor] = []
    handle = model.tokens.register_forward_hook(lambda *call: hidden.append(call[2]))
    scores = model(tokens)
    handle.remove()
    for row in (3, 17, 31):
        (change,) = torch.autograd.grad(scores[:, row].pow(2).sum(), hidden[0], retain_graph=True)
        used = change.abs().amax((0, 2)) > 0
        assert used[row]
        assert not (used & ~seen[row]).any()


# Training.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zeros(FullAttention):
    """Returns zeros."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        return 0 * super().attend(query, key, value, call)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean(FullAttention):
    """Returns the mean of the earlier values for each token."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        return super().attend(query, 0 * key, value, call)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fails(FullAttention):
    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        raise LookupError("there is none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dies(FullAttention):
    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        os._exit(3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explodes(FullAttention):
    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        return super().attend(query, key, value, call) * float("inf")


def trained(attention: variants.Attention, task: str, steps: int, seed: int = 0) -> Trained:
    return fit(attention, TASKS[task](16), steps=steps, seed=seed, device="cpu")


@pytest.mark.parametrize("task", TASKS)
def test_exact_attention_learns(task: str) -> None:
    seen = trained(variants.create("full"), task, 150)
    assert seen.accuracy > 0.98
    assert seen.accuracy == seen.accuracy_in_sight
    assert (seen.in_sight, seen.learned) == (1.0, "yes")
    assert seen.loss_end < 0.1 < 1.0 < seen.loss_start
    assert seen.steps_taken < 150
    assert [point.step for point in seen.curve[:-1]] == list(range(0, seen.steps_taken - 1, 6))
    assert seen.curve[-1].step == seen.steps_taken - 1
    assert seen.curve[0].loss == seen.loss_start
    assert seen.curve[-1].accuracy > 0.95


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("broken", [Zeros(), Mean()])
def test_attention_that_returns_zeros_does_not_learn(broken: Any, task: str) -> None:
    seen = trained(broken, task, 150)
    assert seen.accuracy < 0.75
    assert seen.accuracy < seen.chance + 0.25
    assert seen.learned == "no"


def test_a_window_too_short_to_pass_information_on_does_not_learn() -> None:
    seen = trained(variants.create("sliding_window", window_size=3), "copy", 60)
    assert (seen.in_sight, seen.accuracy_in_sight) == (0.0, None)
    assert seen.accuracy < 0.35
    assert seen.learned == "no"


def test_learned_requires_only_the_answers_that_are_in_sight() -> None:
    assert learned(0.9, None) == "yes"
    assert learned(0.8, 0.95) == "in sight"
    assert learned(0.8, 0.8) == learned(0.8, None) == "no"


def test_the_same_seed_gives_the_same_numbers_and_the_random_state_is_unchanged() -> None:
    state = torch.get_rng_state()
    attention = attention_at("performer", 16)
    first = trained(attention, "recall", 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        again = trained(attention, "recall", 4)
    own = {"seconds": 0.0, "steps_per_s": 0.0}
    assert dataclasses.replace(first, **own) == dataclasses.replace(again, **own)
    assert trained(attention, "recall", 4, seed=1).curve != first.curve
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_have_different_draws_and_learned_parameters_depend_on_the_seed() -> None:
    model = TinyModel(attention_at("performer", 32), Recall(32), seed=0)
    first, second = (block.attention.attention for block in model.blocks)  # type: ignore
    assert (first.seed, second.seed) == (0, 1)  # type: ignore
    spans = [
        next(iter(block.attention.attention_parameters.values()))  # type: ignore
        for seed in (0, 1)
        for block in TinyModel(attention_at("adaptive_span", 32), Recall(32), seed).blocks
    ]
    assert len({tuple(span.tolist()) for span in spans}) == 4


def test_a_variant_with_a_shared_query_and_key_gets_a_layer_with_them() -> None:
    for shared_qk in (True, False):
        model = TinyModel(variants.create("lsh", shared_qk=shared_qk), Copy(32), seed=0)
        assert all(block.attention.shared_qk is shared_qk for block in model.blocks)  # type: ignore


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_variant_with_a_gradient_is_trained(name: str) -> None:
    seen = trained(attention_at(name, 16), "copy", 10)
    assert seen.curve[-1].loss < seen.loss_start


# Runs and the command.


def table(folder: Path, name: str = "training.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def asked(attention: variants.Attention, seed: int = 0) -> TrainingCase:
    sizes = {"seq_len": 8, "steps": 3}
    return TrainingCase(
        attention=attention, causal=True, task="copy", seed=seed, device="cpu", **sizes
    )


def run(cases: list[TrainingCase], folder: Path) -> list[TrainingRow]:
    processes = LocalExecutor(executor.WorkerCall(use_one_thread), 2)
    return run_loop.run(TrainingWorkload(tuple(cases)), folder, processes)


def test_a_failure_is_a_row_and_other_cases_are_kept(tmp_path: Path) -> None:
    broken = [asked(x, seed) for seed, x in enumerate((Fails(), Dies(), Explodes()))]
    rows = run([*broken, asked(FullAttention(), seed=3)], tmp_path)
    assert len(rows) == 4
    found = {int(row["seed"]): row for row in table(tmp_path)}
    assert [found[seed]["status"] for seed in range(4)] == ["error", "crashed", "error", "ok"]
    assert found[0]["reason"] == "LookupError: there is none"
    assert found[1]["reason"] == "the worker process ended with exit status 3"
    assert found[2]["reason"] == "ArithmeticError: the loss was nan at step 0 of 3"
    assert all(found[seed]["accuracy"] == found[seed]["learned"] == "" for seed in range(3))
    assert found[3]["learned"] == "no"
    assert 0 <= float(found[3]["accuracy"]) <= 1
    curves = table(tmp_path, "curves.csv")
    assert [(row["seed"], row["step"]) for row in curves] == [("3", "0"), ("3", "1"), ("3", "2")]
    said = training_summary.sentences(rows)
    assert said[0] == "0 of 4 trainings learned their task"
    assert "error: full, copy, seed 0: LookupError: there is none" in said


def test_rows_are_kept_after_an_interrupt_and_the_run_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Progress.advance

    def interrupted(self: Progress, *_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([asked(FullAttention(), seed) for seed in range(2)], tmp_path)
    kept = table(tmp_path)
    assert [row["status"] for row in kept] == [Status.OK]
    monkeypatch.setattr(Progress, "advance", advance)
    bench(monkeypatch, "--resume", tmp_path)
    again = table(tmp_path)
    assert [row["seed"] for row in again] == ["0", "1"]
    assert kept[0] in again


def bench(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", "train", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_trains_and_prints_whether_the_task_was_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ("--variant", "sliding_window window_size=2", "--task", "copy", "--task", "copy")
    size = ("--steps", 2, "--seq-len", 8, "--seed", 5, "--seed", 6, "--seed", 5)
    assert bench(monkeypatch, *words, *size, "--out", folder) == 0
    said = capsys.readouterr().out
    assert "0 of 2 trainings learned their task" in said
    assert "not learned: sliding_window window_size=2, copy, seed 5: accuracy" in said
    rows = sorted(table(folder), key=lambda row: row["seed"])
    assert [row["seed"] for row in rows] == ["5", "6"]
    assert {row["hyperparameters"] for row in rows} == {"window_size=2"}
    assert list(rows[0]) == [*TrainingRow.columns(), *Origin.columns()]

    before = (folder / "training.csv").read_bytes()
    assert bench(monkeypatch, *words, "--out", folder) == 2
    assert capsys.readouterr().err == (
        f"Error: {folder} holds a run already; continue it with --resume {folder}\n"
    )
    assert (folder / "training.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--variant", "nothing"), "Error: unknown variant 'nothing'"),
        (("--task", "sort"), "Invalid value for '--task': 'sort' is not one of 'copy', 'recall'"),
        (("--seq-len", "7"), "Invalid value for '--seq-len': 7 is not in the range x>=8"),
        (("--steps", "0"), "Invalid value for '--steps': 0 is not in the range x>=1"),
        (("--seed", "-1"), "Invalid value for '--seed': -1 is not in the range"),
    ],
)
def test_bad_input_ends_with_one_message(
    words: tuple[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench(monkeypatch, *words, "--out", tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert bench(monkeypatch, "--variant", "full", "--out", tmp_path / "file" / "run") == 2
    assert "cannot write to" in capsys.readouterr().err
