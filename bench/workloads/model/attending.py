"""Times the attention calls of a model, and those of exact attention on the same tensors."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from bench.instruments.torch_defaults import torch_defaults
from bench.workloads.model.stopwatch import Stopwatch
from variants.contract.registry import reference_attention
from variants.pretrained.model_call import AttentionFunction

# Names of spans: the variant, exact attention, and calls that are not timed.
OWN, EXACT, UNTIMED = "attention", "exact attention", "untimed"


@dataclass
class Timed:
    """An attention function that times the variant, and exact attention on the same tensors.

    The output of exact attention is discarded. The order of the two alternates, as the second one
    finds its inputs in the cache.
    """

    function: AttentionFunction
    watch: Stopwatch
    is_warm: bool = False
    implementation: str = ""
    _exact: AttentionFunction = field(
        default_factory=lambda: AttentionFunction(reference_attention())
    )
    _exact_first: bool = False

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, *others: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        call = (module, query, key, *others)
        if not self.function.replaces(module):
            return self.function(*call, **options)
        if not self.is_warm:
            # All layers have one shape: patterns are drawn and kernels are compiled in the first
            # call and used by all later ones.
            with self.watch.span(UNTIMED):
                self._exact(*call, **options)
                self.function(*call, **options)
            self.implementation = self.function.attention.choose_implementation(query, key)
            self.is_warm = True
        self._exact_first = not self._exact_first
        if self._exact_first:
            self._time_exact(*call, **options)
        # torch SDPA is timed at torch's defaults here too.
        used = self.function.attention.choose_implementation(query, key)
        as_it_comes = used == self._exact.attention.implementation
        with torch_defaults() if as_it_comes else nullcontext(), self.watch.span(OWN):
            found = self.function(*call, **options)
        if not self._exact_first:
            self._time_exact(*call, **options)
        return found

    def _time_exact(self, *call: Any, **options: Any) -> None:
        with torch_defaults(), self.watch.span(EXACT):
            self._exact(*call, **options)


@contextmanager
def timed(network: Any, watch: Stopwatch, *, is_warm: bool) -> Iterator[Timed]:
    """Time the attention calls of a model after `replace_attention` has put a variant into it."""
    interface = importlib.import_module("transformers").AttentionInterface
    name = network.config.get_text_config()._attn_implementation
    function = interface()[name]
    wrapped = Timed(function, watch, is_warm)
    interface.register(name, wrapped)
    try:
        yield wrapped
    finally:
        interface.register(name, function)
