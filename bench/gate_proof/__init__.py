"""Experiments that measure how often the gates are wrong: `python -m bench.gate_proof`."""
