"""Tests of the kernels of variants/engines/gpu."""
