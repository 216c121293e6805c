"""The registry of all variants: `register`, `create`, `grid` and `add_implementation`."""

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
from variants.contract.suggestion import did_you_mean

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
    """Add a class to the registry under the name of its file.

    `target` is the function that the method converges to; it decides which contract tests apply.
    `supports` is a subset of `CAPABILITIES`. With the hyperparameters `exact_when`, the method
    equals softmax attention at every practical length. `grid` gives the settings that a sweep
    compares, including the defaults: either values for each hyperparameter, which are combined in
    all ways, or a list of settings. The hyperparameters with several numbers in the grid are the
    quality knob, `Info.knob`; if there are several, all must increase together.
    `convex` is False if weights may be negative, or if the weights of a row may have a sum other
    than 1 (0 if the row sees no key). A `causal_only` method refuses a call that is not causal.
    `positions` states how a row depends on positions, besides the tokens that it may see. "none":
    it does not. "distance": it depends on the distance of query and key. "absolute": it depends on
    positions that are counted from the first token, or on the number of tokens. Padded sequences of
    an "absolute" method are computed one by one.
    The first paragraph of the file becomes `Info.summary`.
    `libraries` are the implementations that call a public kernel. The implementations in
    `reduced_precision` round scores to bfloat16 for every dtype of the inputs. `reference` is the
    implementation with which every other method is compared; only exact attention declares it.
    An invalid argument raises ValueError at import.
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
    """The hyperparameters of a variant, in the order of their declaration: name, type, default,
    valid values, meaning, and the values for short sequences and tiny trainings.

    An unknown name raises a ValueError that lists the valid names.
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
        attend: the kernel, with the meaning of the variant's own `attend`. It is called as
            `attend(attention, query, key, value, causal=..., key_padding_mask=..., scale=...,
            parameters=...)`, and raises UnsupportedError for arguments that it does not support.
        unavailable: gives the reason why the implementation cannot run on a device; None if it can.
        supports: the capabilities of the variant that the implementation has; by default all except
            `distance_bias` and `step`. With `distance_bias`, `attend` gets one more keyword of this
            name. An added implementation cannot have `step`.
        differs: the difference from the variant's definition, as words after "computes something
            else:". Such an implementation is not checked against that definition.

    Raises:
        ValueError: an unknown variant or capability; a name that exists or is not an identifier.
    """
    if variant not in REGISTRY:
        raise ValueError(_unknown_variant(variant))
    info = REGISTRY[variant].info
    if name in ("auto", *info.implementations) or (variant, name) in ADDED:
        raise ValueError(f"{variant} has an implementation {name!r} already")
    if not callable(attend):
        raise ValueError(f"{variant}/{name}: attend must be a function; got {attend!r}")
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


def create(name: str, /, **hyperparameters: Any) -> Attention:
    """Make a variant by its registry name: `create("sliding_window", window_size=256)`.

    An unknown name, an unknown hyperparameter or a value out of range raises a ValueError that
    lists the valid names or values.
    """
    cls = _registered(name)
    fields = [field.name for field in dataclasses.fields(cls)]
    if unknown := [word for word in hyperparameters if word not in fields]:
        raise ValueError(
            f"{name} has no hyperparameter "
            f"{', '.join(f'{word!r}{did_you_mean(word, fields)}' for word in unknown)}; it has: "
            f"{', '.join(fields)}"
        )
    return cls(**hyperparameters)


def reference_attention() -> Attention:
    """Exact attention with the implementation with which every other method is compared."""
    (info,) = (cls.info for cls in REGISTRY.values() if cls.info.reference)
    return create(info.name, implementation=info.reference)


def grid(name: str, settings: str = "grid") -> list[Attention]:
    """A variant with each setting of the grid that its file declares; without a grid, its defaults.

    With `settings="default"`, only the settings in which the quality knob has its default.
    """
    if settings not in SETTINGS:
        raise ValueError(f"settings must be one of {', '.join(SETTINGS)}; got {settings!r}")
    default = create(name)
    knob = default.info.knob if settings == "default" else ()
    made = [create(name, **setting) for setting in default.info.grid]
    return [it for it in made if all(getattr(it, k) == getattr(default, k) for k in knob)]


def default_knob(name: str) -> str:
    """The quality knob at its default, as `name=value` text; empty if there is no knob."""
    default = create(name)
    return " ".join(f"{knob}={getattr(default, knob)}" for knob in default.info.knob)


def _registered(name: str) -> type[Attention]:
    if not isinstance(name, str) or name not in REGISTRY:
        raise ValueError(_unknown_variant(name))
    return REGISTRY[name]


def _unknown_variant(name: object) -> str:
    close = did_you_mean(name, REGISTRY)
    return f"unknown variant {name!r}{close}; known variants: {', '.join(sorted(REGISTRY))}"


def _first_paragraph(cls: type[Attention]) -> str:
    """The first paragraph of the module docstring of a class, on one line."""
    module = sys.modules.get(cls.__module__)
    text = inspect.cleandoc(getattr(module, "__doc__", None) or "")
    return " ".join(text.partition("\n\n")[0].split())


def _with_hyperparameters(cls: type[Attention], declared: Sequence[Hyperparameter]) -> str:
    """The docstring of a class with a section that lists its hyperparameters."""
    # A dataclass without a docstring has its signature as `__doc__`.
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
    """The hyperparameters with several numbers in the grid; they must increase together."""
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
