"""Times the same code against itself, to say which difference this machine can resolve."""
