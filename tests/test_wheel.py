"""The content of a wheel: its files and its types."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.test_architecture import PACKAGES, ROOT

BUILD = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
SCRIPT = ROOT / "tests" / "typing_cases" / "user_script.py"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    pytest.importorskip("setuptools", minversion="77.0.3")
    folder = tmp_path_factory.mktemp("project")
    for name in PACKAGES:
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (made,) = (folder / "dist").glob("*.whl")
    return ZipFile(made)


def test_a_wheel_contains_every_file_of_the_packages(wheel: ZipFile) -> None:
    wanted = {
        file.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    found = {name for name in wheel.namelist() if Path(name).parts[0] in PACKAGES}
    assert found == wanted
    assert "variants/py.typed" in found


def test_mypy_checks_the_types_of_a_users_script(
    wheel: ZipFile, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """The wheel is installed in an environment, because mypy reads only typed packages there."""
    pytest.importorskip("mypy")
    venv.create(tmp_path / "environment", symlinks=True)
    (packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    wheel.extractall(packages)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    shutil.copy(SCRIPT, tmp_path)
    assert pytestconfig.cache is not None
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file="),
            *("--python-executable", tmp_path / "environment" / "bin" / "python"),
            *("--cache-dir", pytestconfig.cache.mkdir("mypy"), SCRIPT.name),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
