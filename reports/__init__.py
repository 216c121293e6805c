"""How runs are shown: figures, a page, tables. Reads files, never runs a kernel.

From Python: `reports.build.build_report([Path("results/cpu")])`.
"""
