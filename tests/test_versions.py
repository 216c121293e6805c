"""Pinned versions, compared versions, and the condition for warnings as errors."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import versions

ROOT = versions.ROOT
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
WARNS = """
import warnings

def test_any():
    warnings.warn("new in this release", FutureWarning)

def test_excepted():
    warnings.warn_explicit("cannot load", UserWarning, "file", 1, module="xformers.ops")
"""


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def test_the_pinned_versions_are_all_required_ones_and_satisfy_the_bounds() -> None:
    held = versions.tested(CONSTRAINTS)
    extras = project()["optional-dependencies"].values()
    for wanted in (project()["dependencies"], *extras):
        for requirement in map(Requirement, wanted):
            name = canonicalize_name(requirement.name)
            if not versions.NOT_HELD.fullmatch(name):
                assert requirement.specifier.contains(held[name])


def test_the_constraints_are_sorted_and_contain_only_versions() -> None:
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line)] == []
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0])
    assert versions.freeze(versions.tested(CONSTRAINTS)) == CONSTRAINTS


def test_the_packages_of_the_environment_itself_are_not_pinned() -> None:
    found = {"numpy": "2.4", "pip": "26.3", "nvidia-nccl-cu12": "2.27", "cuda-bindings": "12.9"}
    found |= {"triton": "3.6", "attention-benchmark": "0.1.0", "setuptools": "84.2.1"}
    lines = versions.freeze(found).removeprefix(versions.HEADER)
    assert lines == "numpy==2.4\nsetuptools==84.2.1\n"


def test_the_installed_versions_are_those_of_pip() -> None:
    found = versions.installed()
    assert found["pytest"] == pytest.__version__
    assert not [version for version in found.values() if "+" in version]
    assert versions.public("2.13.0+cpu") == "2.13.0"
    assert versions.canonical("PyYAML_x.y") == "pyyaml-x-y"


def test_differing_versions_are_listed() -> None:
    held = versions.tested("# a comment\n\nJinja2==3.1.6\nnumpy==2.4.6\nruff==0.17.6\n")
    assert held == {"jinja2": "3.1.6", "numpy": "2.4.6", "ruff": "0.17.6"}
    found = {"jinja2": "3.1.6", "numpy": "2.5.0", "triton": "3.6", "six": "1.17"}
    assert versions.differing(held, found) == ["numpy 2.5.0 (2.4.6 was tested)"]
    assert versions.differing(held, {"jinja2": "3.1.6"}) == []
    rows = [("numpy", "2.4.6", "2.5.0"), ("ruff", "0.17.6", "-"), ("six", "-", "1.17")]
    assert versions.changes(held, found) == rows


def test_an_installed_torch_keeps_the_versions_that_it_needs() -> None:
    held = {"numpy": "2.4.6", "setuptools": "84.2.1", "torch": "2.13.0", "typing-extensions": "4"}
    needs = ["setuptools<82", "typing_extensions>=4.10", 'triton==3.6; sys_platform == "linux"']
    assert versions.to_install(held, None, []) == held
    assert versions.to_install(held, "2.13.0+cu130", needs) == held
    assert versions.to_install(held, "2.12.1", needs) == {"numpy": "2.4.6"}


def test_lower_bounds_are_read_from_pyproject() -> None:
    some = {
        "dependencies": ["torch>=2.10,<2.14", "xformers<1,>=0.0.35; python_version>='3.11'"],
        "optional-dependencies": {"test": ["pytest-benchmark>=5.1"], "dev": ["pandas-stubs"]},
    }
    bounds = {"torch": "2.10", "xformers": "0.0.35", "pytest-benchmark": "5.1"}
    assert versions.lower_bounds(some, ["test"]) == bounds
    with pytest.raises(ValueError, match=r"a lower bound, pandas-stubs>=\.\.\.; got ''$"):
        versions.lower_bounds(some, ["dev"])


def test_every_dependency_has_a_lower_bound() -> None:
    extras = project()["optional-dependencies"].keys() - {"dev"}
    assert versions.lower_bounds(project(), extras)["transformers"] == "4.56"


@pytest.mark.parametrize("held", [True, False], ids=["held", "other"])
def test_warnings_are_errors_only_with_the_pinned_versions(
    tmp_path: Path, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the settings of this project, and constraints for one package."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (tmp_path / "tests").mkdir()
    for name in ("pyproject.toml", "tests/__init__.py", "tests/conftest.py", "tests/versions.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests/test_it.py").write_text(WARNS)
    version = pytest.__version__ if held else "0.1"
    (tmp_path / "constraints.txt").write_text(f"pytest=={version}\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if held:
        assert "versions: those of constraints.txt; warnings are errors" in done.stdout
        assert "FAILED tests/test_it.py::test_any - FutureWarning: new in this rel" in done.stdout
        assert "1 failed, 1 passed in" in done.stdout
    else:
        said = f"versions: pytest {pytest.__version__} (0.1 was tested); warnings are no errors"
        assert said in done.stdout
        assert "FutureWarning: new in this release" in done.stdout
        assert "2 passed, 1 warning in" in done.stdout


def test_the_header_names_five(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import conftest

    monkeypatch.setattr(conftest, "DIFFERING", [f"p{i} 1 (2 was tested)" for i in range(7)])
    header = conftest.pytest_report_header()
    assert header.endswith("p4 1 (2 was tested) and 2 more; warnings are no errors")
