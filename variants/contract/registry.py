"""What is known about a variant besides its mathematics, and the one place that knows them all."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise, product
from typing import Any, TypeVar

import torch
from torch import Tensor

from variants.contract.added import ADDED, Added
from variants.contract.attention import Attention
from variants.contract.help_text import HelpText
from variants.contract.hyperparameter import Hyperparameter, check_declared, declared_by
from variants.contract.info import CAPABILITIES, POSITIONS, TARGETS, Info

SETTINGS = ("grid", "default")

REGISTRY: dict[str, type[Attention]] = {}

AttentionClass = TypeVar("AttentionClass", bound="type[Attention]")


def register(
    *,
    title: str,
    year: int,
    url: str,
    time: str,
    memory: str,
    target: str,
    supports: set[str],
    implementations: Sequence[str],
    exact_when: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] = (),
    convex: bool = True,
    causal_only: bool = False,
    positions: str = "absolute",
    libraries: Collection[str] = (),
    reduced_precision: Collection[str] = (),
    reference: str = "",
) -> Callable[[AttentionClass], AttentionClass]:
    """Enter a class into the registry under the name of the file it stands in.

    `target` is what the method converges to, and decides which contract properties apply.
    `supports` is a subset of `CAPABILITIES`. `exact_when` are hyperparameters at which the method
    equals softmax attention at every practical length. `grid` gives the settings a sweep compares,
    the defaults among them: values for each hyperparameter, of which every combination is one, or
    the settings one by one. What takes several numbers there is the knob of quality, `Info.knob`;
    where these are several hyperparameters, they grow together.
    `convex` is False where weights may be negative, or a row of them sum to something else than 1
    (0 if it sees nothing). A `causal_only` method refuses a call that is not causal.
    `positions` says what a row depends on besides the tokens that it may see: on "none" of their
    positions; on the "distance" of query and key; or on "absolute" positions, counted from the
    first token, or on how many tokens there are. Padded sequences of an "absolute" method are
    computed one by one.
    The first sentence of the file becomes `Info.summary`.
    `libraries` are the implementations that call a public kernel; those of `reduced_precision`
    round scores to bfloat16, whatever the dtype of the inputs. `reference`, of exact attention
    alone, is the implementation that every other method is measured beside.
    A wrong word is a ValueError at import.
    """

    def enter(cls: AttentionClass) -> AttentionClass:
        name = cls.__module__.rpartition(".")[2]
        if name in REGISTRY:
            raise ValueError(f"variant {name!r} is registered twice; one file holds one variant")
        if target not in TARGETS:
            raise ValueError(f"{name}: target {target!r} is not one of {', '.join(TARGETS)}")
        if unknown := supports - CAPABILITIES:
            raise ValueError(f"{name}: supports {sorted(unknown)} is not in {sorted(CAPABILITIES)}")
        if positions not in POSITIONS:
            raise ValueError(
                f"{name}: positions {positions!r} is not one of {', '.join(POSITIONS)}"
            )
        if causal_only and "causal" not in supports:
            raise ValueError(f"{name}: causal_only needs 'causal' in supports")
        for word, names in (
            ("libraries", libraries),
            ("reduced_precision", reduced_precision),
            ("reference", {reference} - {""}),
        ):
            if unknown := set(names) - set(implementations):
                raise ValueError(
                    f"{name}: {word} {sorted(unknown)} is not in implementations "
                    f"{list(implementations)}"
                )
        if reference and exact_when != {}:
            raise ValueError(f"{name}: only exact attention, exact_when={{}}, has a reference")
        declared = declared_by(cls)
        check_declared(name, declared)
        fields = {field.name for field in dataclasses.fields(cls)}
        settings = _settings(name, grid)
        for setting in (*(exact_when or {}), *settings[0]):
            if setting not in fields:
                raise ValueError(
                    f"{name}: {setting!r} in grid or exact_when is not one of {sorted(fields)}"
                )
        defaults = {field.name: field.default for field in dataclasses.fields(cls)}
        if not any(all(defaults[key] == one[key] for key in one) for one in settings):
            written = " ".join(f"{key}={defaults[key]}" for key in settings[0])
            raise ValueError(f"{name}: grid must hold the defaults, {written}; it does not")
        cls.info = Info(
            name=name,
            title=title,
            year=year,
            url=url,
            time=time,
            memory=memory,
            target=target,
            supports=frozenset(supports),
            implementations=tuple(implementations),
            exact_when=exact_when,
            grid=settings,
            convex=convex,
            causal_only=causal_only,
            positions=positions,
            knob=_knob(name, settings),
            libraries=frozenset(libraries),
            reduced_precision=frozenset(reduced_precision),
            reference=reference,
            summary=_first_paragraph(cls),
        )
        cls.__doc__ = HelpText(_with_hyperparameters(cls, declared))  # type: ignore[assignment]
        REGISTRY[name] = cls
        return cls

    return enter


def hyperparameters(name: str) -> tuple[Hyperparameter, ...]:
    """The hyperparameters of a variant, in the order of its file: name, type, default, valid
    values, meaning, and the values for short sequences and tiny trainings.

    An unknown name is a ValueError that lists the valid ones.
    """
    return declared_by(_registered(name))


def add_implementation(
    variant: str,
    name: str,
    *,
    attend: Callable[..., Tensor],
    unavailable: Callable[[torch.device], str | None] | None = None,
    supports: Collection[str] | None = None,
    differs: str = "",
) -> None:
    """Make `name` a valid `implementation` of a registered variant.

    Args:
        attend: called as the variant's own `attend` is, the variant first: `attend(attention,
            query, key, value, causal=..., key_padding_mask=..., scale=..., parameters=...)`.
            Raises UnsupportedError for what it cannot serve.
        unavailable: why it cannot run on a device; None if it can.
        supports: the part of the variant's capabilities it has; if not given all of them but
            `distance_bias`, which `attend` then takes as one more keyword, and `step`, which it
            cannot have.
        differs: how it departs from the variant's definition, as words after "computes something
            else:". Such an implementation is not checked against that definition.

    Raises:
        ValueError: an unknown variant or capability, a name that is taken or is no plain word.
    """
    if variant not in REGISTRY:
        raise ValueError(
            f"unknown variant {variant!r}; known variants: {', '.join(sorted(REGISTRY))}"
        )
    info = REGISTRY[variant].info
    if name in ("auto", *info.implementations) or (variant, name) in ADDED:
        raise ValueError(f"{variant} has an implementation {name!r} already")
    if not name.isidentifier():
        raise ValueError(
            f"{variant}: the name of an implementation must be letters, digits and underscores; "
            f"got {name!r}"
        )
    if unknown := set(supports or ()) - CAPABILITIES:
        raise ValueError(
            f"{variant}/{name}: supports {sorted(unknown)} is not in {sorted(CAPABILITIES)}"
        )
    own = info.supports - {"distance_bias"} if supports is None else info.supports & set(supports)
    ADDED[variant, name] = Added(attend, unavailable, own - {"step"}, differs)


def create(name: str, **hyperparameters: Any) -> Attention:
    """Make a variant by its registry name: `create("sliding_window", window_size=256)`.

    An unknown name, an unknown hyperparameter or a value out of range is a ValueError that lists
    the valid ones.
    """
    cls = _registered(name)
    fields = [field.name for field in dataclasses.fields(cls)]
    if unknown := [word for word in hyperparameters if word not in fields]:
        raise ValueError(
            f"{name} has no hyperparameter {', '.join(map(repr, unknown))}; it has: "
            f"{', '.join(fields)}"
        )
    return cls(**hyperparameters)


def reference_attention() -> Attention:
    """Exact attention by the implementation that every other method is measured beside."""
    (info,) = (cls.info for cls in REGISTRY.values() if cls.info.reference)
    return create(info.name, implementation=info.reference)


def grid(name: str, settings: str = "grid") -> list[Attention]:
    """The settings of a variant that its own file declares worth comparing, defaults otherwise.

    With `settings="default"` only those whose knob of quality is at its default.
    """
    if settings not in SETTINGS:
        raise ValueError(f"settings must be one of {', '.join(SETTINGS)}; got {settings!r}")
    default = create(name)
    knob = default.info.knob if settings == "default" else ()
    made = [create(name, **setting) for setting in default.info.grid]
    return [it for it in made if all(getattr(it, k) == getattr(default, k) for k in knob)]


def default_knob(name: str) -> str:
    """The knob of quality at its default, as `name=value` text; empty where there is none."""
    default = create(name)
    return " ".join(f"{knob}={getattr(default, knob)}" for knob in default.info.knob)


def _registered(name: str) -> type[Attention]:
    if name not in REGISTRY:
        raise ValueError(f"unknown variant {name!r}; known variants: {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]


def _first_paragraph(cls: type[Attention]) -> str:
    """The sentence with which the file of a class begins, on one line."""
    module = sys.modules.get(cls.__module__)
    text = inspect.cleandoc(getattr(module, "__doc__", None) or "")
    return " ".join(text.partition("\n\n")[0].split())


def _with_hyperparameters(cls: type[Attention], declared: Sequence[Hyperparameter]) -> str:
    """The docstring of a class with a section that lists its hyperparameters."""
    # A dataclass without a docstring has its signature there.
    own = "" if (cls.__doc__ or "").startswith(f"{cls.__name__}(") else inspect.getdoc(cls)
    text = own or cls.info.summary or cls.__name__
    lines = [
        textwrap.fill(known.summary, 92, initial_indent="    ", subsequent_indent=" " * 8)
        for known in declared
    ]
    return "\n".join([text, "", "Hyperparameters:", *(lines or ["    none"])])


def _settings(
    name: str, grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    if isinstance(grid, Mapping):
        return tuple(dict(zip(grid, point, strict=True)) for point in product(*grid.values()))
    for setting in grid:
        if set(setting) != set(grid[0]):
            raise ValueError(
                f"{name}: the settings of a grid must name the same hyperparameters; got "
                f"{sorted(grid[0])} and {sorted(setting)}"
            )
    return tuple(grid) or ({},)


def _knob(name: str, settings: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The hyperparameters that take several numbers, if they are one knob."""
    knob = tuple(
        key
        for key in settings[0]
        if len({setting[key] for setting in settings}) > 1
        and all(type(setting[key]) in (int, float) for setting in settings)
    )
    curves: dict[Any, list[tuple[Any, ...]]] = {}
    for setting in settings:
        others = tuple(setting[key] for key in setting if key not in knob)
        curves.setdefault(others, []).append(tuple(setting[key] for key in knob))
    for points in curves.values():
        for less, more in pairwise(sorted(points)):
            if not all(x < y for x, y in zip(less, more, strict=True)):
                raise ValueError(
                    f"{name}: {' and '.join(knob)} in grid must grow together, as they are one "
                    f"knob; got {less} and {more}"
                )
    return knob
