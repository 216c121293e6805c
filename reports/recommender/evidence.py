"""The evidence of runs: the candidates at any length of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from reports import noise
from reports.metrics import show_ms
from reports.recommender.candidate import Candidate
from reports.recommender.curve_index import CurveIndex
from reports.recommender.layer_policy import Policy, candidate_of
from reports.recommender.perplexities import Perplexities
from reports.recommender.placement import placed
from reports.recommender.scene import Scene
from reports.rows import Runs


class Evidence:
    """The rows of runs, in an order in which questions are answered fast. `frame` has all rows.

    Args:
        runs: the runs as `read_runs` reads them.
        models: rows of model.csv, such as `read_models(folders).frame`; None without model runs.
    """

    def __init__(self, runs: Runs, models: pd.DataFrame | None = None) -> None:
        self.frame = runs.frame
        self._environments = runs.environments
        self._index = CurveIndex(runs.frame)
        self._perplexities = Perplexities(models)

    def scenes(self) -> Sequence[Scene]:
        """All scenes that have rows."""
        return sorted(self._index.curves)

    def rows(self, scene: Scene) -> int:
        """The number of rows of a scene."""
        return self._index.rows[scene]

    def lengths(self, scene: Scene) -> Sequence[int]:
        """The measured lengths of a scene; if it has no rows, those with other numbers of heads."""
        curves = [curve for one in self._own(scene) for curve in self._index.curves[one].values()]
        return sorted({seq_len for curve in curves for seq_len in curve})

    def layers(self, scene: Scene, seq_len: int | None = None) -> Sequence[int]:
        """The measured layers of the inputs of a scene, at one length or at all."""
        curves = [curve for one in self._own(scene) for curve in self._index.curves[one].values()]
        found = {
            layer
            for curve in curves
            for length, layers in curve.items()
            for layer in layers
            if layer is not None and seq_len in (None, length)
        }
        return sorted(found)

    def heads(self, scene: Scene) -> Sequence[int]:
        """The measured numbers of query heads of scenes that are otherwise equal."""
        return sorted({one.heads for one in self._index.siblings(scene)})

    def candidates(self, scene: Scene, seq_len: int, layer: Policy = "worst") -> list[Candidate]:
        """All methods at a length, also those that are never chosen.

        `layer` is the policy for captured inputs: "worst" or "median" error of the measured layers,
        or the number of a layer. Numbers are as measured, or interpolated between two lengths or
        two numbers of heads. Without neighbours they are extrapolated, and approximations are
        excluded. Without a row of exact attention, so are those that are slower than exact
        attention was in their own process.
        """
        found = []
        here = placed(self._index, scene, seq_len, layer)
        has_exact = any(self._index.traits[method].is_exact for method in here)
        for method, one in here.items():
            traits = self._index.traits[method]
            made = candidate_of(
                method,
                traits,
                one.kind,
                one.layers,
                layer,
                refused=one.refused,
                perplexity=self._perplexities.ratio(method, traits, seq_len),
            )
            if not has_exact and not made.excluded and made.noise_low > made.exact_ms:
                made = replace(
                    made, excluded=f"slower than exact attention ({show_ms(made.exact_ms)})"
                )
            found.append(made)
        return found

    def measured_layers(self, rows: Sequence[int]) -> list[int]:
        """The layers of these rows."""
        return sorted({int(layer) for layer in self.frame.loc[list(rows), "layer"].dropna()})

    def resolution(self, machine: str) -> float | None:
        """The relative difference of times that is noise on a machine; None if it is not known."""
        return noise.resolution(self._environments.get(machine) or {})

    def disturbed(self, rows: Sequence[int]) -> int:
        """How many of these rows other load disturbed."""
        return int(self.frame.loc[list(rows), "disturbed"].fillna("").ne("").sum())

    def _own(self, scene: Scene) -> Sequence[Scene]:
        return [scene] if scene in self._index.curves else self._index.siblings(scene)
