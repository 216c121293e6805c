"""Measures attention: expands axes to cases and measures cases to rows. It does not plot."""
