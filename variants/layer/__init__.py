"""Attention as a part of a model: projections, heads, positions, a block, pretrained models."""

from variants.layer.multi_head import MultiHeadAttention
from variants.layer.transformer_block import TransformerBlock

__all__ = ["MultiHeadAttention", "TransformerBlock"]
