"""How a method is executed; a variant states what, an engine does it."""
