"""One training: a new tiny model, new batches at every step, and an evaluation at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from bench.schema.training_row import Point, TrainingResults
from bench.workloads.training.tasks import NO_ANSWER, Batch, Task
from bench.workloads.training.tiny_model import TinyModel
from variants import Attention

BATCH, HELD_OUT = 32, 256  # sequences in a step; sequences of the evaluation
LEARNING_RATE, WARM_UP = 8e-3, 0.1  # the maximum; share of the steps that it takes to reach it
MASTERED, IN_A_ROW = 0.99, 20  # training stops after IN_A_ROW steps with this accuracy
POINTS = 25  # of a curve, if training does not stop early


LEARNED = 0.9  # smallest accuracy with which a task counts as learned


@dataclass(frozen=True, kw_only=True)
class Trained(TrainingResults):
    """The result of a training, and some of its steps."""

    curve: tuple[Point, ...]


def fit(attention: Attention, task: Task, *, steps: int, seed: int, device: str) -> Trained:
    """Train a model with this attention.

    The same seed gives the same numbers on the same machine with the same number of threads.
    torch's global random state is not changed.

    Raises:
        ArithmeticError: the loss is not finite.
    """
    with torch.random.fork_rng(devices=[device] if device == "cuda" else []):
        torch.manual_seed(seed)
        model = TinyModel(attention, task, seed).to(device)
        trained, held_out = (Generator().manual_seed(2 * seed + apart) for apart in (0, 1))
        started = perf_counter()
        curve = _train(model, task, steps, trained, device)
        seconds = perf_counter() - started
        with torch.no_grad():
            batch = _on(task.draw(HELD_OUT, held_out), device)
            scores = model(batch.tokens)
            loss = _loss(scores, batch.answers).item()
            right = scores.argmax(-1) == batch.answers
    asked = batch.answers != NO_ANSWER
    seen = model.sees(task.seq_len, task.passed_on)
    rows = torch.arange(task.seq_len, device=seen.device)
    visible = asked & seen[rows, batch.sources]
    accuracy, steps_taken = _mean(right, asked), curve[-1].step + 1
    accuracy_in_sight = _mean(right, visible) if visible.any() else None
    return Trained(
        learned=learned(accuracy, accuracy_in_sight),
        loss_start=curve[0].loss,
        loss_end=loss,
        accuracy=accuracy,
        chance=batch.chance,
        in_sight=_mean(visible, asked),
        accuracy_in_sight=accuracy_in_sight,
        steps_taken=steps_taken,
        seconds=seconds,
        steps_per_s=steps_taken / seconds,
        curve=curve,
    )


def learned(accuracy: float, accuracy_in_sight: float | None) -> str:
    """`yes`; `in sight` if the accuracy is high only on answers that the patterns can reach; or
    `no`."""
    if accuracy >= LEARNED:
        return "yes"
    return "in sight" if (accuracy_in_sight or 0.0) >= LEARNED else "no"


def _train(
    model: TinyModel, task: Task, steps: int, generator: Generator, device: str
) -> tuple[Point, ...]:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    curve: list[Point] = []
    mastered = 0
    for step in range(steps):
        batch = _on(task.draw(BATCH, generator), device)
        scores = model(batch.tokens)
        loss = _loss(scores, batch.answers)
        point = Point(step=step, loss=loss.item(), accuracy=_accuracy(scores, batch.answers))
        if not math.isfinite(point.loss):
            raise ArithmeticError(f"the loss was {point.loss} at step {step} of {steps}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mastered = mastered + 1 if point.accuracy >= MASTERED else 0
        last = step == steps - 1 or mastered == IN_A_ROW
        if last or step % max(1, steps // POINTS) == 0:
            curve.append(point)
        if last:
            break
    return tuple(curve)


def _rate(step: int, steps: int) -> float:
    """Factor on the learning rate: rises linearly, then falls as a cosine."""
    up = max(1, round(WARM_UP * steps))
    if step < up:
        return (step + 1) / up
    return 0.5 + 0.5 * math.cos(math.pi * (step - up) / max(1, steps - up))


def _loss(scores: Tensor, answers: Tensor) -> Tensor:
    return cross_entropy(scores.flatten(0, 1), answers.flatten(), ignore_index=NO_ANSWER)


def _accuracy(scores: Tensor, answers: Tensor) -> float:
    return _mean(scores.argmax(-1) == answers, answers != NO_ANSWER)


def _mean(flags: Tensor, where: Tensor) -> float:
    return flags[where].double().mean().item()


def _on(batch: Batch, device: str) -> Batch:
    return Batch(batch.tokens.to(device), batch.answers.to(device), batch.sources.to(device))
