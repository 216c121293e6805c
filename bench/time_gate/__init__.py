"""The time gate: alternates the calls of two revisions on one machine and judges the ratios."""
