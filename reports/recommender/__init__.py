"""Chooses an attention for a question: a length, heads, a dtype, inputs, and limits.

The command line, the page and the evaluation use the same rules: `Evidence.candidates` says what is
known about each method, and `choose` takes one of them. docs/recommender.md states the rules.
"""
