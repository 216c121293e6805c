"""The generated parts of README.md and docs/, for `python -m reports docs`.

The only modules of `reports` that import `variants` and captured inputs: a report needs neither.
"""
