"""The registry: registration, creation and listing of variants, and the error messages."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import math
import os
import pydoc
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import variants
from bench.cli.commands import main as bench
from bench.workloads.training.settings import attention_at
from reports.documents import overview, variant_page
from tests.contract.attentions import settings, small_settings
from variants import CAPABILITIES, REGISTRY, Attention, register
from variants.contract.call import Call
from variants.contract.hyperparameter import Hyperparameter, TimesLength, hyperparameter
from variants.contract.info import TARGETS
from variants.contract.registry import default_knob, reference_attention

NAMES = sorted(REGISTRY)

ENTRY: dict[str, Any] = {
    "title": "A paper",
    "year": 2020,
    "url": "https://example.org",
    "time": "n",
    "memory": "n",
    "target": "softmax",
    "supports": {"causal"},
    "implementations": ("plain", "other"),
}


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def a_class(module: str = "somewhere.tent") -> type[Attention]:
    """An unregistered variant, as if it were defined in a file of that name."""

    @dataclass(frozen=True)
    class Tent(Attention):
        poles: int = hyperparameter(
            3, minimum=1, doc="number of poles", small=2, train=TimesLength(1 / 4)
        )
        canvas: str = hyperparameter("wool", choices=("wool", "silk"), doc="kind of cloth")
        open: bool = hyperparameter(False, doc="whether the door is open")

        def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
            return value

        def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
            return torch.eye(key.shape[2])[rows]

    Tent.__module__ = module
    return Tent


def entered(cls: type[Attention] | None = None, **changes: Any) -> type[Attention]:
    return register(**ENTRY | changes)(cls or a_class())


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# --- Registering a variant


def test_a_variant_is_registered_under_the_name_of_its_file() -> None:
    cls = entered()
    assert REGISTRY["tent"] is cls
    assert cls.info.name == "tent"
    assert variants.create("tent", poles=4) == cls(poles=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "hardmax"}, f"tent: target 'hardmax' is not one of {', '.join(TARGETS)}"),
        (
            {"supports": {"causal", "teleport"}},
            f"tent: supports ['teleport'] is not in {sorted(CAPABILITIES)}",
        ),
        (
            {"grid": {"pole": (1, 2)}},
            "tent: 'pole' in grid or exact_when is not one of "
            "['canvas', 'implementation', 'open', 'poles']",
        ),
        (
            {"exact_when": {"pegs": 1}},
            "tent: 'pegs' in grid or exact_when is not one of "
            "['canvas', 'implementation', 'open', 'poles']",
        ),
        (
            {"libraries": {"other", "cuda"}},
            "tent: libraries ['cuda'] is not in implementations ['plain', 'other']",
        ),
        (
            {"reduced_precision": {"half"}},
            "tent: reduced_precision ['half'] is not in implementations ['plain', 'other']",
        ),
        (
            {"reference": "sdpa", "exact_when": {}},
            "tent: reference ['sdpa'] is not in implementations ['plain', 'other']",
        ),
        (
            {"reference": "plain", "exact_when": {"poles": 9}},
            "tent: only exact attention, exact_when={}, has a reference",
        ),
    ],
    ids=[
        "target",
        "capability",
        "grid",
        "exact_when",
        "library",
        "precision",
        "reference",
        "exact",
    ],
)
def test_invalid_facts_are_refused_on_registration(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        entered(**changes)
    assert "tent" not in REGISTRY


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            hyperparameter(6, minimum=1),
            "tent: hyperparameter 'pegs' needs its meaning: hyperparameter(6, doc='...')",
        ),
        (6, "tent: hyperparameter 'pegs' needs its meaning: hyperparameter(6, doc='...')"),
        (
            hyperparameter(None, doc="number of pegs"),
            "tent: hyperparameter 'pegs' needs a default of type bool, int, float or str; got None",
        ),
        (
            hyperparameter(0, minimum=1, doc="number of pegs"),
            "tent: default value: pegs must be an integer of at least 1; got 0",
        ),
        (
            hyperparameter(6, step=2, doc="number of pegs", small=3),
            "tent: small value: pegs must be a multiple of 2; got 3",
        ),
        (
            hyperparameter(6, doc="number of pegs", train=1.5),
            "tent: train value: pegs must be of type int; got 1.5",
        ),
        (
            hyperparameter("six", doc="number of pegs", choices=("six", "ten"), train="two"),
            "tent: train value: pegs must be one of six, ten; got 'two'",
        ),
        (
            hyperparameter("six", doc="number of pegs", train=TimesLength(2)),
            "tent: hyperparameter 'pegs': TimesLength needs a number as default and a factor above "
            "0; got factor 2",
        ),
        (
            hyperparameter("six", doc="number of pegs", minimum=1),
            "tent: hyperparameter 'pegs': minimum must be a number of the type of the default, "
            "str; got 1",
        ),
        (
            hyperparameter(6, doc="number of pegs", step=0),
            "tent: hyperparameter 'pegs': step must be an integer of at least 1, and 1 unless the "
            "default is an integer; got 0",
        ),
        (
            hyperparameter(6, doc="number of pegs", choices=(6, "ten")),
            "tent: hyperparameter 'pegs': choices must be a tuple of values of the type of the "
            "default, int; got (6, 'ten')",
        ),
    ],
)
def test_an_incomplete_hyperparameter_is_refused(field: Any, message: str) -> None:
    pegged = dataclasses.make_dataclass(
        "Pegged", [("pegs", int, field)], bases=(a_class(),), frozen=True
    )
    pegged.__module__ = "somewhere.tent"
    with pytest.raises(ValueError, match=exactly(message)):
        entered(pegged)
    assert "tent" not in REGISTRY


def test_the_limits_of_a_number_with_a_decimal_point_have_its_type() -> None:
    """An integer as `minimum` would make the tests ask for an invalid integer value."""
    width = hyperparameter(4.0, minimum=0, doc="width in metres", train=TimesLength(1 / 4))
    tent = dataclasses.make_dataclass(
        "Wide", [("width", float, width)], bases=(a_class(),), frozen=True
    )
    tent.__module__ = "somewhere.tent"
    entered(tent)
    known = {it.name: it for it in variants.hyperparameters("tent")}["width"]
    assert (known.minimum, type(known.minimum)) == (0.0, float)
    assert (known.train_at(0), type(known.train_at(0))) == (0.0, float)
    assert variants.create("tent", width=known.minimum).width == 0.0  # type: ignore[attr-defined]


def test_a_second_variant_in_one_file_is_refused() -> None:
    first = entered()
    with pytest.raises(ValueError, match="'tent' is registered twice; one file holds one variant"):
        entered()
    assert REGISTRY["tent"] is first


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_and_every_capability_is_accepted(target: str) -> None:
    cls = entered(target=target, supports=set(CAPABILITIES))
    assert cls.info.target == target
    assert cls.info.supports == CAPABILITIES


@pytest.mark.parametrize("name", NAMES)
def test_the_declared_facts_of_a_registered_variant_are_complete(name: str) -> None:
    info = REGISTRY[name].info
    assert info.name == name
    assert info.target in TARGETS
    assert variants.create(name).target in TARGETS
    assert info.supports <= CAPABILITIES
    assert info.implementations
    assert len(set(info.implementations)) == len(info.implementations)
    assert "auto" not in info.implementations
    assert info.title
    assert info.summary
    assert (info.libraries | info.reduced_precision) <= set(info.implementations)
    assert info.url.startswith("https://")
    assert 2013 < info.year < 2100
    assert "n" in info.time
    assert "n" in info.memory
    assert REGISTRY[name].__doc__ or sys.modules[REGISTRY[name].__module__].__doc__
    if info.exact_when is not None:
        variants.create(name, **info.exact_when)


# --- Creating a variant


def test_an_unknown_variant_lists_the_known_ones() -> None:
    message = f"unknown variant 'ful' (did you mean 'full'?); known variants: {', '.join(NAMES)}"
    for function in (variants.create, variants.grid):
        with pytest.raises(ValueError, match=exactly(message)):
            function("ful")


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_hyperparameter_lists_the_valid_ones(name: str) -> None:
    fields = [field.name for field in dataclasses.fields(REGISTRY[name])]
    message = f"{name} has no hyperparameter '_', 'colour'; it has: {', '.join(fields)}"
    with pytest.raises(ValueError, match=exactly(message)):
        variants.create(name, _=3, implementation="auto", colour="red")


@pytest.mark.parametrize(
    ("text", "suggested"),
    [
        ("lhs", "unknown variant 'lhs' (did you mean 'lsh'?); known"),
        ("Longformer", "unknown variant 'Longformer' (did you mean 'longformer'?); known"),
        ("nothing", "unknown variant 'nothing'; known"),
        ("lsh num_hash=2", "'num_hash' (did you mean 'num_hashes'?); it has"),
        ("linear feature_map=rellu", "got 'rellu' (did you mean 'relu'?)"),
        ("full implementation=spda", "got 'spda' (did you mean 'sdpa'?)"),
    ],
)
def test_a_mistyped_name_gets_a_suggestion(text: str, suggested: str) -> None:
    with pytest.raises(ValueError, match=re.escape(suggested)):
        variants.parse(text)


def bad_values(name: str) -> list[tuple[str, Any, str]]:
    """Invalid values of each field, from the declaration of the field."""
    found: list[tuple[str, Any, str]] = []
    for field in dataclasses.fields(REGISTRY[name]):
        minimum, choices = field.metadata.get("minimum"), field.metadata.get("choices")
        if field.name == "implementation":
            choices = ("auto", *REGISTRY[name].info.implementations)
        kind = type(field.default)
        if choices is not None:
            for value in ("no such", object()):
                found.append((field.name, value, f"must be one of {', '.join(map(str, choices))}"))
        elif minimum is not None:
            name_of_kind = "an integer" if kind is int else "a number with a decimal point"
            other = minimum + 0.5 if kind is int else int(minimum) + 1
            for value in (minimum - 1, other, True, "8", None):
                found.append((field.name, value, f"must be {name_of_kind} of at least {minimum}"))
            if (step := field.metadata["step"]) > 1:
                message = f"must be a multiple of {step}"
                found.append((field.name, minimum + step + 1, message))
        elif kind is int:
            for value in (1.0, True, "8", None):
                found.append((field.name, value, "must be of type int"))
        elif kind is bool:
            for value in (1, "yes", None):
                found.append((field.name, value, "must be of type bool"))
    return found


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [(name, *case) for name in NAMES for case in bad_values(name)],
)
def test_an_invalid_value_is_refused_with_the_valid_ones(
    name: str, field: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=exactly(f"{name}: {field} {message}; got {value!r}")):
        variants.create(name, **{field: value})


# --- Facts about hyperparameters


def test_hyperparameters_are_records_in_the_order_of_the_file() -> None:
    entered()
    assert variants.hyperparameters("tent") == (
        Hyperparameter(
            name="poles",
            type=int,
            default=3,
            minimum=1,
            step=1,
            choices=None,
            doc="number of poles",
            small=2,
            train=TimesLength(1 / 4),
        ),
        Hyperparameter(
            name="canvas",
            type=str,
            default="wool",
            choices=("wool", "silk"),
            doc="kind of cloth",
            small="wool",
            train="wool",
        ),
        Hyperparameter(
            name="open",
            type=bool,
            default=False,
            doc="whether the door is open",
            small=False,
            train=False,
        ),
    )
    assert variants.hyperparameters("full") == ()


@pytest.mark.parametrize(
    ("known", "seq_len", "value"),
    [
        ({"train": 5}, 64, 5),
        ({"train": TimesLength(1 / 4)}, 30, 8),  # 7.5 is rounded to the even number
        ({"train": TimesLength(1 / 4), "step": 3}, 64, 15),
        ({"train": TimesLength(1 / 4), "minimum": 4}, 8, 4),
        ({"train": TimesLength(1 / 4)}, 1, 0),
        ({"train": TimesLength(1 / 4), "type": float}, 30, 7.5),
    ],
)
def test_the_training_value_of_a_number_grows_with_the_sequence(
    known: dict[str, Any], seq_len: int, value: float
) -> None:
    record = Hyperparameter(**{"name": "pegs", "type": int, "default": 6} | known)
    found = record.train_at(seq_len)
    assert found == value
    assert type(found) is type(value)


def test_the_docstring_of_a_variant_lists_its_hyperparameters() -> None:
    text = entered().__doc__
    assert text is not None
    assert text.endswith(
        "Hyperparameters:\n"
        "    poles (int, default 3, at least 1): number of poles\n"
        "    canvas (str, default wool, one of wool, silk): kind of cloth\n"
        "    open (bool, default False): whether the door is open"
    )


@pytest.mark.parametrize("name", NAMES)
def test_help_describes_a_variant_and_its_hyperparameters(name: str) -> None:
    made = variants.create(name)
    text = inspect.getdoc(type(made))
    assert text is not None
    about, section = text.split("\n\nHyperparameters:\n")
    assert about
    assert not about.startswith(type(made).__name__)
    assert max(map(len, section.splitlines())) < 100
    flat = " ".join(section.split())
    known = variants.hyperparameters(name)
    assert flat == (" ".join(one.summary for one in known) or "none")
    for one in known:
        assert one.doc == one.doc.strip()
        assert not one.doc.endswith(".")


# --- Properties of a created variant


def test_hyperparameters_are_sorted_text_without_the_implementation() -> None:
    entered()
    made = variants.create("tent", poles=7, implementation="other")
    assert made.hyperparameters == "canvas=wool open=False poles=7"


@pytest.mark.parametrize("name", NAMES)
def test_hyperparameters_name_every_setting_in_order(name: str) -> None:
    made = variants.create(name)
    names = [part.split("=")[0] for part in made.hyperparameters.split()]
    assert names == sorted(
        field.name for field in dataclasses.fields(made) if field.name != "implementation"
    )
    for part in made.hyperparameters.split():
        word, value = part.split("=")
        assert value == str(getattr(made, word))


@pytest.mark.parametrize("name", NAMES)
def test_variants_with_equal_settings_are_equal_hashable_and_immutable(name: str) -> None:
    one, other = variants.create(name), variants.create(name)
    assert one == other
    assert one is not other
    assert len({one, other}) == 1
    field = dataclasses.fields(one)[-1].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, field, getattr(one, field))
    implementation = one.info.implementations[-1]
    assert one != dataclasses.replace(one, implementation=implementation)
    for second in NAMES:
        assert (one == variants.create(second)) == (name == second)


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_keeps_no_tensor(name: str) -> None:
    made = variants.create(name)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 2, 9, 4, generator=generator)
    causal = made.info.causal_choices[0]
    made(query, query, query, causal=causal)
    made.prepare(query, query, causal=causal)
    settings = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    assert vars(made) == settings | {"text": str(made)}


def test_only_exact_attention_declares_a_reference() -> None:
    found = reference_attention()
    assert found.info.is_exact
    assert found.implementation == found.info.reference in found.info.libraries
    assert [name for name in NAMES if REGISTRY[name].info.reference] == [found.info.name]


# --- The grid


@pytest.mark.parametrize("name", NAMES)
def test_the_grid_is_the_declared_one_and_contains_the_defaults(name: str) -> None:
    made = variants.grid(name)
    assert made == [REGISTRY[name](**setting) for setting in REGISTRY[name].info.grid]
    assert len(set(made)) == len(made)
    assert variants.create(name) in made


@pytest.mark.parametrize("name", NAMES)
def test_a_knob_of_quality_has_several_settings(name: str) -> None:
    info, made = REGISTRY[name].info, variants.grid(name)
    default = variants.create(name)
    kept = variants.grid(name, "default")
    assert default in kept
    for other in kept:  # the settings without a knob do not differ in numbers
        numbers = [
            f.name
            for f in dataclasses.fields(other)
            if isinstance(getattr(other, f.name), int | float)
        ]
        assert all(getattr(other, field) == getattr(default, field) for field in numbers)
    if not info.knob:
        assert kept == made
        return
    # Powers of two with a constant factor between them, equally many for each combination of the
    # other settings.
    values = sorted({getattr(one, info.knob[0]) for one in made})
    assert 3 <= len(values) <= 4
    assert len(values) * len(kept) == len(made)
    assert all(math.log2(value).is_integer() for value in values)
    assert len({after / before for before, after in pairwise(values)}) == 1
    # At least two of the settings still omit some keys at 1024 tokens.
    assert values[1] < 1024


def test_a_variant_without_a_grid_is_compared_at_its_defaults() -> None:
    cls = entered()
    assert variants.grid("tent") == variants.grid("tent", "default") == [cls()]
    assert cls.info.knob == ()
    assert default_knob("tent") == ""


def test_a_grid_is_the_product_of_its_axes() -> None:
    cls = entered(grid={"poles": (2, 3), "canvas": ("wool", "silk")})
    assert variants.grid("tent") == [
        cls(poles=poles, canvas=canvas) for poles in (2, 3) for canvas in ("wool", "silk")
    ]
    assert cls.info.knob == ("poles",)
    assert variants.grid("tent", "default") == [cls(canvas="wool"), cls(canvas="silk")]
    assert default_knob("tent") == "poles=3"


def test_a_grid_of_settings_may_change_two_numbers_together() -> None:
    cls = entered(a_tent_with_pegs(), grid=[{"poles": n, "pegs": 2 * n} for n in (6, 3)])
    assert variants.grid("tent") == [cls(poles=6, pegs=12), cls()]
    assert cls.info.knob == ("poles", "pegs")
    assert variants.grid("tent", "default") == [cls()]
    assert default_knob("tent") == "poles=3 pegs=6"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"poles": (1, 2)}, "tent: grid must hold the defaults, poles=3; it does not"),
        (
            {"poles": (3, 4), "pegs": (6, 7)},
            "tent: poles and pegs in grid must grow together, as they are one knob; got (3, 6) "
            "and (3, 7)",
        ),
        (
            [{"poles": 3, "pegs": 6}, {"poles": 4, "pegs": 5}],
            "tent: poles and pegs in grid must grow together, as they are one knob; got (3, 6) "
            "and (4, 5)",
        ),
        (
            [{"poles": 3}, {"pegs": 6}],
            "tent: the settings of a grid must name the same hyperparameters; got ['poles'] and "
            "['pegs']",
        ),
    ],
    ids=["no-defaults", "product", "one-falls", "other-names"],
)
def test_a_grid_that_is_no_curve_is_refused(grid: Any, message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        entered(a_tent_with_pegs(), grid=grid)
    assert "tent" not in REGISTRY


def test_an_unknown_kind_of_settings_is_refused() -> None:
    message = "settings must be one of grid, default; got 'best'"
    with pytest.raises(ValueError, match=exactly(message)):
        variants.grid("lsh", "best")


def a_tent_with_pegs() -> type[Attention]:
    @dataclass(frozen=True)
    class Pegged(a_class()):  # type: ignore[misc]
        pegs: int = hyperparameter(6, minimum=1, doc="number of pegs")

    Pegged.__module__ = "somewhere.tent"
    return Pegged


# --- One file is one variant

NEW_FILE = '''
"""Mean attention: a query sees every key and weighs all alike.

Differs from public code: there is none.
"""

from dataclasses import dataclass

import torch

from variants.contract.attention import Attention
from variants.contract.definitions import expand_heads, normalised, visible
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.registry import register


@register(
    title="Nothing at All You Need",
    year=2030,
    url="https://example.org",
    time="n²·d",
    memory="n²",
    target="other_kernel",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("plain",),
    grid={"strength": (1, 2)},
)
@dataclass(frozen=True)
class MeanAttention(Attention):
    """The mean of the values.

    Costs: n tokens, d = head_dim.
    """

    strength: int = hyperparameter(
        1, minimum=1, doc="factor of every weight", small=3, train=TimesLength(1 / 4)
    )

    def attend(self, query, key, value, call):
        rows = torch.arange(query.shape[2], device=query.device)
        weights = self.dense_weights(query, key, rows, call)
        return weights @ expand_heads(value, query.shape[1])

    def dense_weights(self, query, key, rows, call):
        lengths = query.shape[2], key.shape[2]
        seen = visible(rows, *lengths, call)
        weights = normalised(seen.to(query.dtype))
        return weights.expand(*query.shape[:2], len(rows), key.shape[2])
'''


def in_a_copy(tmp_path: Path, python: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run Python with a copy of the package that has one more file, outside this checkout."""
    package = Path(variants.__file__).parent
    shutil.copytree(
        package, tmp_path / "variants", ignore=shutil.ignore_patterns("__pycache__", ".*")
    )
    (tmp_path / "variants" / "mean_of_all.py").write_text(NEW_FILE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *python],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_new_file_is_a_new_variant_without_other_changes(tmp_path: Path) -> None:
    code = (
        "import json, variants; print(json.dumps([sorted(variants.REGISTRY), variants.__file__, "
        "[a.hyperparameters for a in variants.grid('mean_of_all')]]))"
    )
    done = in_a_copy(tmp_path, ["-c", code])
    assert done.returncode == 0, done.stderr
    names, file, grid = json.loads(done.stdout)
    assert names == sorted([*NAMES, "mean_of_all"])
    assert Path(file).is_relative_to(tmp_path)
    assert grid == ["strength=1", "strength=2"]


def test_a_hyperparameter_of_a_new_name_needs_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mean_of_all.py").write_text(NEW_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mean_of_all", raising=False)
    importlib.import_module("mean_of_all")

    assert small_settings("mean_of_all") == {"strength": 3}
    assert settings("mean_of_all") == {"small": {"strength": 3}, "minimum": {"strength": 1}}
    assert attention_at("mean_of_all", 32) == variants.create("mean_of_all", strength=8)
    assert attention_at("mean_of_all strength=2", 32).strength == 2  # type: ignore[attr-defined]
    listed = CliRunner(env={"COLUMNS": "120"}).invoke(bench, ["list", "mean_of_all"])
    assert listed.exit_code == 0
    assert "mean_of_all: Mean attention: a query sees every key and" in listed.output
    cells = "strength", "int", "1", "at least 1", "factor of every weight"
    assert re.search(r"\s+".join(map(re.escape, cells)), listed.output)
    meaning = "strength (int, default 1, at least 1): factor of every weight"
    assert meaning in (REGISTRY["mean_of_all"].__doc__ or "")
    assert "strength = 1: factor of every weight" in pydoc.render_doc(
        variants.create("mean_of_all")
    )
    page = variant_page.text("mean_of_all")
    assert "| `strength` | factor of every weight | `1` | at least 1 | yes |" in page
    assert "[`mean_of_all`](docs/variants/mean_of_all.md)" in overview.table()


def test_a_new_file_is_tested_by_the_contract(tmp_path: Path) -> None:
    contract = Path(__file__).with_name("contract")
    shutil.copytree(
        contract, tmp_path / "tests/contract", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "tests/__init__.py").touch()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    done = in_a_copy(
        tmp_path,
        ["-m", "pytest", "tests", "-qp", "no:cacheprovider", "-k", "mean_of_all", "-m", "not gpu"],
    )
    assert done.returncode == 0, done.stdout
    passed = int(done.stdout.split(" passed")[0].split()[-1])
    assert passed > 50


def test_a_fraction_is_a_hyperparameter_like_any_other() -> None:
    from bench.plan.sweep import parse

    @dataclass(frozen=True)
    class Decay(Attention):
        decay: float = hyperparameter(0.5, minimum=0.0, doc="factor a token")

        def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
            return value

        def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
            return torch.eye(key.shape[2])[rows]

    Decay.__module__ = "variants.decay"
    register(
        title="",
        year=2000,
        url="",
        time="n",
        memory="n",
        target="other_kernel",
        supports=set(),
        implementations=("plain",),
        grid={"decay": (0.5, 0.25)},
    )(Decay)
    try:
        cases = parse("mine", {"seq_len": 8, "variant": ["decay", "decay decay=1e-3"]}).cases(
            "cpu", {}
        )
        assert sorted(case.attention.decay for case in cases) == [0.001, 0.25, 0.5]
        with pytest.raises(ValueError, match="a number with a decimal point of at least 0"):
            variants.create("decay", decay=-1.0)
    finally:
        del REGISTRY["decay"]
