"""The variants that a change of a file concerns."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import variants
from bench.time_gate.changed_variants import changed_variants, needed_modules

ROOT = Path(__file__).parents[1]
FILES = {
    "__init__": "import variants.one\nfrom variants.contract.route import choose\n",
    "one": "from variants.engines import tiles\nfrom variants.contract.base import register\n",
    "two": "def call():\n    from .engines.rows import row\n\nfrom .contract import base\n",
    "three": "import variants.contract.base\nPLACE = 'variants.engines.by_name'\n",
    "engines/__init__": "",
    "engines/tiles": "from variants.engines.inner import sizes\n",
    "engines/rows": "",
    "engines/by_name": "",
    "engines/unused": "",
    "engines/inner/__init__": "",
    "engines/inner/sizes": "from .. import rows\n",
    "contract/__init__": "",
    "contract/base": "",
    "contract/route": "from variants.contract import helper\n",
    "contract/helper": "",
}
ALL = {"one", "two", "three"}

Changed = Callable[[str], set[str]]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the same files."""
    base, head = tmp_path / "base", tmp_path / "head"
    for name, text in FILES.items():
        file = base / "variants" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    shutil.copytree(base, head)
    return base, head


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("one", {"one"}),
        ("two", {"two"}),
        ("engines/tiles", {"one"}),
        ("engines/inner/sizes", {"one"}),
        ("engines/inner/__init__", {"one"}),
        ("engines/rows", {"one", "two"}),  # imported within a function, and by a relative import
        ("engines/by_name", {"three"}),
        ("engines/unused", set()),
        ("contract/base", ALL),
        ("contract/__init__", ALL),
        ("contract/route", ALL),  # only the root imports it
        ("contract/helper", ALL),
        ("__init__", ALL),
    ],
)
def test_a_change_concerns_the_variants_that_import_the_file(
    folders: tuple[Path, Path], file: str, expected: set[str]
) -> None:
    base, head = folders
    assert changed_variants(base, head) == set()
    with (head / "variants" / f"{file}.py").open("a") as stream:
        stream.write("# changed\n")
    assert changed_variants(base, head) == changed_variants(head, base) == expected


def test_a_variant_that_only_one_side_has_differs(folders: tuple[Path, Path]) -> None:
    base, head = folders
    (head / "variants" / "two.py").rename(head / "variants" / "four.py")
    assert changed_variants(base, head) == {"two", "four"}


def test_a_file_that_moves_to_another_import_differs(folders: tuple[Path, Path]) -> None:
    base, head = folders
    (head / "variants" / "engines" / "rows.py").unlink()
    assert changed_variants(base, head) == {"one", "two"}


def test_a_file_that_python_cannot_read_differs(folders: tuple[Path, Path]) -> None:
    base, head = folders
    (head / "variants" / "engines" / "tiles.py").write_text("def (:\n")
    assert changed_variants(base, head) == {"one"}


# Imports one variant without the others, calls it, and prints the modules that this imports.
CALLED = """
import importlib, json, sys, types
import torch
root = types.ModuleType("variants")
root.__path__ = [sys.argv[1]]
sys.modules["variants"] = root
importlib.import_module("variants." + sys.argv[2])
from variants.contract.registry import create
query = torch.randn(1, 2, 64, 16)
create(sys.argv[2])(query, query, query, causal=True)
print(json.dumps([name for name in sys.modules if name.startswith("variants.")]))
"""


@pytest.fixture(scope="module")
def needed() -> dict[str, set[str]]:
    return needed_modules(ROOT)


@pytest.mark.parametrize("name", ["linear", "top_k"])
def test_a_variant_needs_all_modules_that_a_call_imports(
    name: str, needed: dict[str, set[str]]
) -> None:
    words = [sys.executable, "-c", CALLED, str(ROOT / "variants"), name]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout))
    assert len(imported) > 20
    assert imported <= needed[name]


def test_every_registered_variant_has_its_file(needed: dict[str, set[str]]) -> None:
    assert set(needed) == set(variants.REGISTRY)


def test_a_change_of_an_engine_does_not_concern_all_variants(
    tmp_path: Path, needed: dict[str, set[str]]
) -> None:
    shutil.copytree(ROOT / "variants", tmp_path / "variants")
    engine = "variants.engines.row_blocks"
    with tmp_path.joinpath(*engine.split(".")).with_suffix(".py").open("a") as stream:
        stream.write("# changed\n")
    expected = {name for name, modules in needed.items() if engine in modules}
    assert changed_variants(ROOT, tmp_path) == expected
    assert expected
    assert expected < set(needed)
