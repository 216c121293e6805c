"""The generated parts of README.md and docs/, for `python -m reports docs`.

Other modules of `reports` do not load captured inputs, and import `variants` only inside functions.
"""
