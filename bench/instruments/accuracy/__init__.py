"""Measures the error of outputs against exact float64 attention on sampled rows, with intervals."""

from bench.instruments.accuracy.errors import (
    ROUNDING,
    MeasuredAccuracy,
    contradiction,
    input_facts,
    measure,
    rounding,
    seed_errors,
)
from bench.instruments.accuracy.gradients import gradient_errors
from bench.instruments.accuracy.reference import Reference
from bench.instruments.accuracy.sampled_rows import Sample, last_rows, sample_rows

__all__ = [
    "ROUNDING",
    "MeasuredAccuracy",
    "Reference",
    "Sample",
    "contradiction",
    "gradient_errors",
    "input_facts",
    "last_rows",
    "measure",
    "rounding",
    "sample_rows",
    "seed_errors",
]
