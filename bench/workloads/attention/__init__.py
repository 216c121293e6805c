"""Measures one attention call: its time, memory and error."""
