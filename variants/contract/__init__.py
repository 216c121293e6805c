"""The contract of variants: base class, checks, registry and quadratic definitions."""
