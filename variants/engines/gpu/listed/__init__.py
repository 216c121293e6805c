"""Softmax over keys that can be listed before the call."""
