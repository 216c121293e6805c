"""The OpenMP settings of worker processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.loop.worker_settings import CHOSEN, SETTINGS, worker_settings


def test_a_worker_gets_settings_that_the_user_has_not_chosen() -> None:
    assert worker_settings({"PATH": "/bin", "OMP_NUM_THREADS": "2"}) == SETTINGS


@pytest.mark.parametrize("name", CHOSEN)
def test_the_choice_of_the_user_holds(name: str) -> None:
    assert worker_settings({name: "5"}) == {}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp comes with Linux wheels")
def test_the_openmp_library_of_torch_accepts_the_settings() -> None:
    # The library prints its settings when it is loaded, and names those that it cannot read.
    shown = subprocess.run(
        [sys.executable, "-c", "import torch"],
        env=os.environ | dict(SETTINGS) | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("this torch has another OpenMP library than libgomp")
    for name, value in SETTINGS.items():
        assert f"{name} = '{value}'" in shown
