"""Counts of a call that do not depend on time: bytes, operations of torch, and errors.

On one kind of CPU, with the same versions, equal code has equal counts: a file shows every change.
"""
