"""The history of the stored runs of `make track`: series over commits, and their steps."""
