"""The settings of OpenMP in the process that measures cases."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SETTINGS", "worker_settings"]

# Threads of torch's OpenMP library (libgomp) that wait for others spin 300000 times by default,
# which takes some ms. If another process needs the core, the thread that has work waits for the
# core as long. This is the shortest spin that costs at most 5 % on a quiet machine, see
# docs/performance.md.
SETTINGS: Mapping[str, str] = {"GOMP_SPINCOUNT": "10000"}
# With one of these, the user has chosen how threads wait.
CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def worker_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to `environment` before a worker process loads torch.

    They are none if the user has set one of `CHOSEN`.
    """
    return {} if any(name in environment for name in CHOSEN) else dict(SETTINGS)
