"""The allowed imports between packages: variants <- bench <- reports, and the modules that are
excluded.

Each rule is a function of a folder, so the tests also apply it to a folder that breaks it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import variants

ROOT = Path(__file__).parent.parent
PACKAGES = ("variants", "bench", "reports")

# Modules that `variants` may import at module level. Engines beyond torch are imported where they
# are called.
VARIANTS_NEEDS = frozenset({"torch", "numpy"})
# Optional, slow or for pictures: not imported at module level by code that runs kernels.
NOT_ON_IMPORT = frozenset(
    {
        "xformers",
        "flash_attn",
        "fla",
        "triton",
        "transformers",
        "accelerate",
        "gguf",
        "matplotlib",
        "textalloc",
        "jinja2",
        "IPython",
    }
)
SCHEMA = "bench.schema"
# Names of a package and of transformers' own attention that are also names of implementations.
NAMES_OF_OTHERS = frozenset(
    {
        ("bench.instruments.environment", "triton"),
        ("bench.counts.counts_file", "triton"),
        ("bench.instruments.environment", "xformers"),
        ("bench.schema.machine_kind", "triton"),
        ("bench.inputs.capture", "sdpa"),
        ("bench.workloads.model.measure", "sdpa"),
    }
)
# The documents describe variants and draw their weights on captured inputs.
DOCUMENTS = "reports.documents"
CAPTURED = "bench.inputs.captured"
NO_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc", "tools", "shared"})


@dataclass(frozen=True)
class Import:
    """One imported module, and whether the import runs when the importing module is imported."""

    importer: str
    module: str
    at_once: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.importer} imports {self.module}"


def modules(root: Path) -> dict[str, Path]:
    """Dotted names and files of the modules of the three packages."""
    found = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(root: Path) -> Iterator[Import]:
    known = modules(root)
    for name, file in known.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node, at_once in import_statements(file.read_text(encoding="utf-8")):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(name, alias.name, at_once)
            else:
                base = node.module or ""
                if node.level:
                    start = package.split(".")[: len(package.split(".")) - node.level + 1]
                    base = ".".join([*start, *([base] if base else [])])
                for alias in node.names:
                    # `from package import module` imports the module too.
                    inner = f"{base}.{alias.name}"
                    yield Import(name, inner if inner in known else base, at_once)


@cache
def import_statements(text: str) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The import statements of a file, and whether each runs at import."""
    return [
        (node, at_once)
        for node, at_once in walk(ast.parse(text), at_once=True)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def walk(node: ast.AST, *, at_once: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it runs at import: not inside functions and not under
    TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            lazy = True
        yield child, at_once
        yield from walk(child, at_once=at_once and not lazy)


def variant_modules(root: Path) -> set[str]:
    return {
        f"variants.{file.stem}"
        for file in (root / "variants").glob("*.py")
        if file.stem != "__init__"
    }


def arrows(root: Path) -> list[str]:
    """variants <- bench <- reports, also for imports inside functions."""
    wrong = []
    for found in imports(root):
        importer = found.importer.partition(".")[0]
        if importer == "variants" and found.top in ("bench", "reports"):
            wrong.append(str(found))
        if importer == "bench" and found.top == "reports":
            wrong.append(str(found))
        if found.top == "tests":
            wrong.append(str(found))
    return wrong


def reports_read_files(root: Path) -> list[str]:
    """Reports know the schemas of runs and import nothing that runs a kernel. Only the documents,
    and one module that reads declared facts, import variants. The documents are imported when they
    are requested."""
    wrong = []
    for found in imports(root):
        if found.importer.partition(".")[0] != "reports":
            continue
        documents = _within(found.importer, DOCUMENTS)
        schema = _within(found.module, SCHEMA) or (documents and found.module == CAPTURED)
        if found.top == "bench" and not schema:
            wrong.append(str(found))
        if found.top == "variants" and not documents:
            wrong.append(str(found))
        if _within(found.module, DOCUMENTS) and not documents and found.at_once:
            wrong.append(str(found))
    return wrong


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def variants_stand_alone(root: Path) -> list[str]:
    """Each variant is one file, and no module of the package imports a variant by name."""
    files = variant_modules(root)
    return [
        str(found)
        for found in imports(root)
        if found.importer.partition(".")[0] == "variants"
        and any(found.module == file or found.module.startswith(f"{file}.") for file in files)
    ]


def light_to_import(root: Path) -> list[str]:
    enough = VARIANTS_NEEDS | {"variants"} | sys.stdlib_module_names
    wrong = []
    for found in imports(root):
        importer = found.importer.partition(".")[0]
        heavy = importer == "bench" and found.top in NOT_ON_IMPORT
        strange = importer == "variants" and found.top not in enough
        # Files of kernels are imported when a kernel starts.
        strange = strange and not (found.top == "triton" and found.importer.endswith("_kernels"))
        if found.at_once and (heavy or strange):
            wrong.append(str(found))
    return wrong


def variants_by_name(root: Path) -> list[str]:
    """Bench and reports read the facts that a variant declares. They contain no name of a
    variant, an implementation or a hyperparameter. Sweeps and public implementations are about
    variants, so they may name them."""
    names = set(variants.REGISTRY)
    for name, cls in variants.REGISTRY.items():
        names.update(cls.info.implementations)
        names.update(known.name for known in variants.hyperparameters(name))
    names -= {"seed"}  # the seed of every random draw, including inputs
    wrong = []
    for module, file in modules(root).items():
        if not module.startswith(("bench.", "reports.")) or module.startswith("bench.peers."):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            if node.value in names and (module, node.value) not in NAMES_OF_OTHERS:
                wrong.append(f"{module} names {node.value!r}")
    return wrong


def contract_imports_no_engine(root: Path) -> list[str]:
    """The contract is an interface: engines import it, and it imports no engine."""
    return [
        str(found)
        for found in imports(root)
        if _within(found.importer, "variants.contract")
        and found.top == "variants"
        and not _within(found.module, "variants.contract")
    ]


def circles(root: Path) -> list[str]:
    """No module imports itself through others, including imports inside functions and for types."""
    known = modules(root)
    graph: dict[str, set[str]] = {name: set() for name in known}
    for found in imports(root):
        if known.get(found.module, root).name not in ("__init__.py", root.name):
            graph[found.importer].add(found.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def names_used_twice(root: Path) -> list[str]:
    """The name of a file or a class identifies it."""
    places: dict[str, list[str]] = {}
    for module, file in modules(root).items():
        if file.stem not in ("__init__", "__main__"):
            places.setdefault(file.name, []).append(module)
        for node in ast.parse(file.read_text(encoding="utf-8"), str(file)).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(f"class {node.name}", []).append(module)
    return [f"{name} in {', '.join(found)}" for name, found in places.items() if len(found) > 1]


def names_that_say_nothing(root: Path) -> list[str]:
    return [
        name for name in modules(root) if any(part.lower() in NO_NAMES for part in name.split("."))
    ]


RULES = [
    arrows,
    variants_by_name,
    reports_read_files,
    variants_stand_alone,
    light_to_import,
    names_that_say_nothing,
    contract_imports_no_engine,
    circles,
    names_used_twice,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_packages_keep_the_rule(rule: object) -> None:
    assert callable(rule)
    assert rule(ROOT) == []


def test_the_modules_of_all_three_packages_are_found() -> None:
    found = modules(ROOT)
    for package in PACKAGES:
        assert sum(name.startswith(f"{package}.") for name in found) > 3
    assert len(list(imports(ROOT))) > 100


def folder(tmp_path: Path, files: dict[str, str]) -> Path:
    """A small project that keeps every rule, except for `files`."""
    innocent = {
        "variants/__init__.py": "from variants.contract.registry import REGISTRY",
        "variants/full.py": "import torch\nfrom variants.contract.registry import REGISTRY",
        "variants/window.py": "import math\nfrom .contract import registry",
        "variants/contract/__init__.py": "",
        "variants/contract/registry.py": "import torch.nn.functional",
        "bench/__init__.py": "",
        "bench/schema/measurement.py": "import variants",
        "bench/loop/run_loop.py": "def run():\n    import transformers",
        "reports/__init__.py": "",
        "reports/__main__.py": "def docs():\n    from reports.documents import table",
        "reports/documents/__init__.py": "",
        "reports/documents/table.py": "import variants\nfrom bench.inputs.captured import Capture",
        "reports/build.py": "import matplotlib\nfrom bench.schema.measurement import Case",
    }
    for name, text in (innocent | files).items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_project_that_keeps_the_rules_passes(rule: object, tmp_path: Path) -> None:
    assert callable(rule)
    assert rule(folder(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("rule", "file", "text", "accused"),
    [
        (arrows, "variants/x.py", "import bench", "variants.x imports bench"),
        (
            arrows,
            "variants/x.py",
            "def f():\n    from reports.build import Case",
            "variants.x imports reports.build",
        ),
        (arrows, "bench/x.py", "from reports import build", "bench.x imports reports.build"),
        (arrows, "bench/x.py", "import tests.cases", "bench.x imports tests.cases"),
        (
            contract_imports_no_engine,
            "variants/contract/x.py",
            "def f():\n    from variants.engines.tiled import run",
            "variants.contract.x imports variants.engines.tiled",
        ),
        (
            circles,
            "bench/schema/measurement.py",
            "def f():\n    from bench.schema.measurement import Case",
            "bench.schema.measurement -> bench.schema.measurement",
        ),
        (
            names_used_twice,
            "bench/build.py",
            "import variants",
            "build.py in bench.build, reports.build",
        ),
        (
            names_used_twice,
            "bench/x.py",
            "class Case: ...\nclass Case: ...",
            "class Case in bench.x, bench.x",
        ),
        (
            reports_read_files,
            "reports/x.py",
            "from bench.loop import run_loop",
            "reports.x imports bench.loop.run_loop",
        ),
        (
            reports_read_files,
            "reports/x.py",
            "import bench.loop.run_loop",
            "reports.x imports bench.loop.run_loop",
        ),
        (reports_read_files, "reports/x.py", "import bench", "reports.x imports bench"),
        (
            reports_read_files,
            "reports/x.py",
            "def f():\n    import variants",
            "reports.x imports variants",
        ),
        (
            reports_read_files,
            "reports/x.py",
            "import reports.documents.table",
            "reports.x imports reports.documents.table",
        ),
        (
            reports_read_files,
            "reports/documents/x.py",
            "import bench.loop.run_loop",
            "reports.documents.x imports bench.loop.run_loop",
        ),
        (
            reports_read_files,
            "reports/documentsx.py",
            "import variants",
            "reports.documentsx imports variants",
        ),
        (
            variants_stand_alone,
            "variants/x.py",
            "from variants.full import Full",
            "variants.x imports variants.full",
        ),
        (
            variants_stand_alone,
            "variants/x.py",
            "from . import full",
            "variants.x imports variants.full",
        ),
        (
            variants_stand_alone,
            "variants/contract/x.py",
            "def f():\n    from ..full import Full",
            "variants.contract.x imports variants.full",
        ),
        (
            light_to_import,
            "variants/x.py",
            "try:\n    import xformers.ops\nexcept ImportError:\n    pass",
            "variants.x imports xformers.ops",
        ),
        (
            light_to_import,
            "variants/contract/x.py",
            "import scipy",
            "variants.contract.x imports scipy",
        ),
        (
            light_to_import,
            "bench/x.py",
            "class A:\n    from matplotlib import pyplot",
            "bench.x imports matplotlib",
        ),
        (variants_by_name, "bench/x.py", "EXACT = 'full'", "bench.x names 'full'"),
        (
            variants_by_name,
            "reports/figures/x.py",
            "def f(row):\n    return row.implementation != 'coarse'",
            "reports.figures.x names 'coarse'",
        ),
        (
            variants_by_name,
            "bench/workloads/model/x.py",
            "def f(attention):\n    return getattr(attention, 'shared_qk', False)",
            "bench.workloads.model.x names 'shared_qk'",
        ),
        (names_that_say_nothing, "bench/utils.py", "", "bench.utils"),
        (names_that_say_nothing, "variants/helpers/x.py", "", "variants.helpers.x"),
    ],
)
def test_a_project_that_breaks_a_rule_fails(
    rule: object, file: str, text: str, accused: str, tmp_path: Path
) -> None:
    assert callable(rule)
    assert rule(folder(tmp_path, {file: text})) == [accused]


def test_every_file_of_variants_registers_exactly_its_own_name() -> None:
    files = {name.removeprefix("variants.") for name in variant_modules(ROOT)}
    assert set(variants.REGISTRY) == files
    for name, cls in variants.REGISTRY.items():
        assert cls.__module__ == f"variants.{name}"


def test_importing_variants_imports_no_engine() -> None:
    """However the import is written; torch itself may import its own compiler."""
    code = "import variants, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "variants" in loaded
    assert not loaded & (NOT_ON_IMPORT - {"triton"} | {"bench", "reports"})


def test_the_tested_package_is_the_one_of_this_folder() -> None:
    assert Path(variants.__file__).resolve().is_relative_to(ROOT.resolve())
