"""Softmax over keys that a query selects."""
