"""Sums of features, and states that decay."""
