"""`create` with a type for each variant: type checkers and editors read typed_create.pyi, which
`make docs` writes from the registry."""

from variants.contract.registry import create

__all__ = ["create"]
