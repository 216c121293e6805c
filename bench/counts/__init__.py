"""Numbers of calls that do not depend on time: bytes, operations of torch, and errors.

They are equal on every run of the same code, so a file with them shows every change.
"""
