"""Variants in a pretrained model, which reads a text: what they do to its predictions, and to its
time."""
