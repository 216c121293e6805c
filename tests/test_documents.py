"""The generated documents: detection of stale files, their renewal, and the content of the
pages."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import variants
from bench.schema.measurement import Measurement
from bench.schema.model_row import ModelRow
from reports.__main__ import main
from reports.documents import (
    create_stub,
    declarations,
    docstrings,
    overview,
    pictures,
    variant_page,
)
from reports.documents.docstrings import DocstringError
from reports.documents.generated import BLOCKS, VARIANTS
from variants import REGISTRY
from variants.contract.implementations import MEANINGS, meaning

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pages with old text between their marks, and the generated files of this checkout."""
    for folder in (VARIANTS, pictures.PLACE):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for module in (create_stub, declarations):
        (tmp_path / module.FILE).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / module.FILE, tmp_path / module.FILE)
    for block in BLOCKS:
        page = tmp_path / block.page
        text = page.read_text() if page.is_file() else "# Title\n"
        marks = f"<!-- {block.name}:begin -->\nold\n<!-- {block.name}:end -->\nend\n"
        page.write_text(text + marks)
    return tmp_path


def docs(root: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["docs", "--root", str(root), *options])
    return result.exit_code, result.output


def test_the_check_names_stale_files_and_the_command_renews_them(root: Path) -> None:
    (root / "docs" / "variants" / "lsh.md").write_text("old")
    for module in (create_stub, declarations):
        (root / module.FILE).write_text("old")
    removed = root / "docs" / "variants" / "gone.md"  # of a variant that does not exist
    removed.touch()
    code, output = docs(root, "--check")
    assert code == 1
    pages = "README.md, docs/columns.md, docs/recommender.md"
    files = (
        f"{pages}, {create_stub.FILE}, {declarations.FILE}, {VARIANTS}/lsh.md, {VARIANTS}/gone.md"
    )
    assert f"{files}: stale; run `python -m reports docs`" in output
    assert "old" in (root / "README.md").read_text()
    assert docs(root)[0] == 0
    assert not removed.exists()
    assert docs(root, "--check") == (0, "")
    readme = (root / "README.md").read_text()
    assert readme.startswith("# Title\n<!-- answer:begin -->\n```text\n")
    assert "\nend\n<!-- variants:begin -->\n| variant |" in readme
    assert readme.endswith("<!-- variants:end -->\nend\n")
    columns = (root / "docs" / "columns.md").read_text()
    for name in (*Measurement.columns(), *ModelRow.columns()):
        assert f"| `{name}` |" in columns


@pytest.mark.parametrize("damage", ["missing file", "missing mark", "two blocks"])
def test_a_block_without_marks_is_named_and_nothing_is_written(root: Path, damage: str) -> None:
    page = root / "docs" / "columns.md"
    if damage == "missing file":
        page.unlink()
    elif damage == "missing mark":
        page.write_text(page.read_text().replace("<!-- results:end -->", ""))
    else:
        page.write_text(2 * page.read_text())
    code, output = docs(root)
    assert code == 2
    assert "docs/columns.md has no place for the generated block 'results'" in output
    assert "old" in (root / "README.md").read_text()


def test_the_table_shows_which_variants_are_causal_only_or_never_causal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = REGISTRY["linear"]
    for name, changes in (("only", {"causal_only": True}), ("never", {"supports": frozenset()})):
        info = replace(whole.info, name=name, **changes)
        own = {"info": info, "__module__": whole.__module__}
        monkeypatch.setitem(REGISTRY, name, type(name, (whole,), own))
    rows = [line.strip("| ").split(" | ") for line in overview.table().splitlines()]
    causal = rows[0].index("causal")
    shown = {row[0].partition("]")[0].strip("[`"): row[causal] for row in rows[2:]}
    assert (shown["linear"], shown["only"], shown["never"]) == ("yes", "only", "no")


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_page_has_all_its_sections(name: str) -> None:
    text = variant_page.text(name)
    info = REGISTRY[name].info
    for hyperparameter in variants.hyperparameters(name):
        assert f"| `{hyperparameter.name}` | {hyperparameter.doc} |" in text
    for implementation in info.implementations:
        assert f"| `{implementation}` |" in text
    assert f"Time O({info.time}), memory O({info.memory}), with n tokens" in text
    assert "\n    " in docstrings.definition(name), "a formula"
    assert len(docstrings.differences(name)) > 40
    assert ("KiB held" in text) == ("step" in info.supports)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_symbol_of_the_costs_is_explained(name: str) -> None:
    info = REGISTRY[name].info
    costs = (info.time + info.memory).replace("log", "")
    letters = {one for one in costs if one.isascii() and one.isalpha()}
    words = docstrings.costs(name)
    for letter in letters - {"n"}:
        assert f"{letter} = " in words
    assert words.startswith("n tokens")


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(name, one) for name in sorted(REGISTRY) for one in REGISTRY[name].info.implementations],
)
def test_a_page_shows_where_an_implementation_runs(name: str, implementation: str) -> None:
    """A CPU can only test the absence of CUDA: an implementation that the page calls CUDA only
    cannot run on a CPU."""
    attention = variants.create(name, implementation=implementation)
    reason = attention.cannot_run(torch.device("cpu"))
    if "cpu" not in meaning(implementation).devices:
        assert reason is not None
    elif implementation != "flex":  # needs a compiler
        assert reason is None


def test_every_library_has_a_description_and_no_description_is_unused() -> None:
    found = [cls.info for cls in REGISTRY.values()]
    known = {one for info in found for one in info.implementations}
    foreign = {one for info in found for one in info.libraries | info.reduced_precision}
    assert foreign <= set(MEANINGS) <= known


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_the_documents_have_a_target(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, link


# Names of no file of this repository.
NOT_HERE = {"variants/<name>.py", "utils.py", "x.py", "x_kernels.py"}


def named_files(page: Path) -> set[str]:
    """The paths in a page that look like those of source files and folders."""
    words = re.findall(r"`([^`\s]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    source = re.compile(r"[\w/<>.]+\.(?:py|pyi|sh)|(?:variants|bench|reports|tests|docs)/[\w/.]*")
    return {word for word in words if source.fullmatch(word)} - NOT_HERE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_document_names_exist(page: Path) -> None:
    """A path may leave out its first folders."""
    folders = [ROOT / top for top in ("variants", "bench", "reports", "tests", "docs")]
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    known = {f"/{path.relative_to(ROOT).as_posix()}" for path in paths}
    for name in named_files(page):
        assert any(path.endswith(f"/{name.rstrip('/')}") for path in known), name


def test_the_architecture_has_a_row_for_each_folder_of_bench() -> None:
    rows = re.findall(r"^\| `(\w+)/` \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    files = [*(ROOT / "bench").glob("*/*.py"), *(ROOT / "bench").glob("*/*.toml")]
    folders = {file.parent.name for file in files}
    assert folders <= set(rows)
    assert "bench/plan/sweep.py" in named_files(ROOT / "docs" / "architecture.md")


def test_a_picture_shows_the_keys_that_the_definition_shows() -> None:
    """In the right picture, exactly the pairs outside the window are white."""
    image = pictures._pixels(pictures.png("sliding_window"))
    side = pictures.TOKENS * pictures.CELL
    assert image.shape == (side, 2 * side + pictures.GAP, 3)
    cells = image[:: pictures.CELL, side + pictures.GAP :: pictures.CELL]
    seen = torch.from_numpy((cells != 255).any(-1))
    window = pictures.small("sliding_window")
    pattern = window.pattern(1, pictures.TOKENS, pictures.TOKENS, True)  # type: ignore[attr-defined]
    assert torch.equal(seen, pattern.mask(torch.arange(pictures.TOKENS))[0])


def test_pictures_are_compared_by_their_colors_and_not_by_their_bytes(tmp_path: Path) -> None:
    content = pictures.png("full")
    file = tmp_path / "again.png"
    file.write_bytes(content)
    pixels = np.array(Image.open(file).convert("RGB"))
    Image.fromarray(pixels).save(file, compress_level=0)
    assert file.read_bytes() != content
    assert pictures.same(file.read_bytes(), content)
    pixels[:3, :3] = 0
    Image.fromarray(pixels).save(file)
    assert not pictures.same(file.read_bytes(), content)
    assert not pictures.same(b"", content)


def test_a_docstring_without_a_required_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY["lsh"], "__doc__", "Softmax attention.")
    expected = "LshAttention needs a paragraph that begins with 'Costs'"
    with pytest.raises(DocstringError, match=expected):
        variant_page.text("lsh")
