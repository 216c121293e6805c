"""Moved to `variants.contract.device`."""

from variants.contract.device import on_gpu, pretended_gpu

__all__ = ["on_gpu", "pretended_gpu"]
