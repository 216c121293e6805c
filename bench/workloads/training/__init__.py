"""Trains tiny models with each attention on tasks that need attention."""
