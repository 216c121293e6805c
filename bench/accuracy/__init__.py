"""How wrong an output is: sampled rows, exact answers in float64, intervals."""

from bench.accuracy.errors import ROUNDING, ROWS, Accuracy, measure, rounding, sample_rows

__all__ = ["ROUNDING", "ROWS", "Accuracy", "measure", "rounding", "sample_rows"]
