"""The engines: a variant states a method, an engine executes it."""
