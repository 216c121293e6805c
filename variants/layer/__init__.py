"""Attention as a layer of a model: projections, heads, position encodings, a block."""

from variants.layer.multi_head import MultiHeadAttention
from variants.layer.transformer_block import TransformerBlock

__all__ = ["MultiHeadAttention", "TransformerBlock"]
