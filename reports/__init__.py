"""Shows runs as figures, an HTML page and tables. It reads files and runs no kernel.

From Python: `reports.build.build_report([Path("results/cpu")])`.
"""
