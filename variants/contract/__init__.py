"""What a variant is: the base class and its checks, the registry, the dense definitions."""
