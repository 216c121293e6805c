"""`create` with a type for each variant. Type checkers and editors read typed_create.pyi, which
`make docs` generates from the registry."""

from variants.contract.registry import create

__all__ = ["create"]
