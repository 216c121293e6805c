"""Measures one case. Runs in a worker process, which keeps the model loaded between cases."""

from __future__ import annotations

import statistics
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.inputs import CaptureError
from bench.inputs.model_files import required
from bench.schema.measurement import Raw
from bench.schema.model_row import ALL_LAYERS, ModelCase, ModelRow
from bench.schema.outcome import Status
from bench.workloads.failure import failure
from bench.workloads.guarded import guarded
from bench.workloads.model.attending import EXACT, OWN, UNTIMED, timed
from bench.workloads.model.plan import Setup
from bench.workloads.model.reading import LOSS, PASS, Reading, can_be_chunked, looks_ahead, read
from bench.workloads.model.stopwatch import Stopwatch
from bench.workloads.model.text import read_text
from variants import UnsupportedError, replace_attention

OWN_ATTENTION = "sdpa"  # the model's own attention, by its name in transformers
FEW = 16  # tokens on which properties of the model are tested


@dataclass(frozen=True)
class _Opened:
    """A model with its own attention, and the token ids of the text.

    `exact` has, for each length, the predictions with exact attention and the time of that pass in
    ms.
    """

    setup: Setup
    network: Any
    tokens: Tensor
    in_chunks: bool
    exact: dict[int, tuple[Reading, float]] = field(default_factory=dict)


_opened: list[_Opened] = []  # at most one


def open_model(setup: Setup) -> int:
    """Load the model into this process, unless it is loaded. Returns its number of parameters.

    Raises:
        CaptureError: the model cannot be loaded, or is not causal.
    """
    if not _opened or _opened[0].setup != setup:
        _opened[:] = [_open(setup)]
    return sum(tensor.numel() for tensor in _opened[0].network.parameters())


def measure(case: ModelCase, setup: Setup) -> tuple[ModelRow, Raw]:
    """Measure a case. Every exception becomes a row with a status and a reason."""
    try:
        open_model(setup)  # changes the process: transformers keeps threads and settings
    except Exception as error:
        return ModelRow.of(case, *failure(error, {})), Raw()
    return guarded(lambda: (_measure(case, _opened[0]), Raw()), partial(ModelRow.of, case), {})


def _open(setup: Setup) -> _Opened:
    transformers = required("transformers", setup.model)
    # tqdm's default lock is a multiprocessing one, which leaks if the worker process is killed.
    required("tqdm", setup.model).tqdm.set_lock(threading.RLock())
    network = setup.source.load(
        transformers.AutoModelForCausalLM,
        dtype=getattr(torch, setup.dtype),
        attn_implementation=OWN_ATTENTION,
    )
    network = network.to(setup.device).eval()
    tokens = torch.tensor(setup.token_ids(read_text(setup.text)), device=setup.device)
    if looks_ahead(network, tokens[:FEW]):
        raise CaptureError(
            f"{setup.model}: expected a causal language model; the predictions of "
            f"{type(network).__name__} with these weights depend on later tokens"
        )
    return _Opened(setup, network, tokens, can_be_chunked(network, tokens[:FEW]))


def _measure(case: ModelCase, opened: _Opened) -> ModelRow:
    attention, network = case.attention, opened.network
    if reason := attention.cannot_run(torch.device(case.device)):
        raise UnsupportedError(reason)
    tokens = opened.tokens[: case.seq_len + 1]
    exact, exact_ms = _exact(case, opened, tokens)
    layers = None if case.layers == ALL_LAYERS else [int(word) for word in case.layers.split()]
    passes: list[Stopwatch] = []
    used = ""
    try:
        replace_attention(network, attention, layers=layers)
        for number in range(opened.setup.passes):
            watch = Stopwatch(opened.tokens.device)
            with timed(network, watch, is_warm=number > 0) as calls:
                reading = read(network, tokens, watch, in_chunks=opened.in_chunks)
            passes.append(watch)
            used = calls.implementation or used
    finally:
        network.set_attn_implementation(OWN_ATTENTION)
    ratio, low, high = reading.ratio(exact)

    def per_token(*less: str, span: str) -> float:
        times = [watch.ms(span) - sum(map(watch.ms, less)) for watch in passes]
        return statistics.median(times) / case.seq_len

    own, by_exact = per_token(span=OWN), per_token(span=EXACT)
    return ModelRow.of(
        case,
        Status.OK,
        implementation_used=used,
        target=attention.target,
        perplexity=reading.perplexity,
        exact_perplexity=exact.perplexity,
        perplexity_ratio=ratio,
        perplexity_ratio_low=low,
        perplexity_ratio_high=high,
        next_token_agreement=reading.agreement(exact),
        time_per_token_ms=per_token(EXACT, UNTIMED, LOSS, span=PASS),
        exact_time_per_token_ms=exact_ms / case.seq_len,
        attention_per_token_ms=own,
        exact_attention_per_token_ms=by_exact,
        speedup_vs_exact=by_exact / own,
        passes=len(passes),
    )


def _exact(case: ModelCase, opened: _Opened, tokens: Tensor) -> tuple[Reading, float]:
    """The predictions of the unchanged model and the time of its pass in ms, computed once."""
    if case.seq_len not in opened.exact:
        watch = Stopwatch(tokens.device)
        reading = read(opened.network, tokens, watch, in_chunks=opened.in_chunks)
        opened.exact[case.seq_len] = reading, watch.ms(PASS) - watch.ms(LOSS)
    return opened.exact[case.seq_len]
