"""Attention as a part of a model: projections, heads, positions, and pretrained models."""
