"""What is known about a variant besides its mathematics, and the one place that knows them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from variants.contract.attention import Attention

CAPABILITIES = frozenset(
    {"causal", "key_padding_mask", "cross_attention", "backward", "distance_bias", "step"}
)
TARGETS = ("softmax", "masked_softmax", "biased_softmax", "shared_qk_softmax", "other_kernel")

REGISTRY: dict[str, type[Attention]] = {}

AttentionClass = TypeVar("AttentionClass", bound="type[Attention]")


@dataclass(frozen=True)
class Info:
    """Metadata of one variant; the documentation table and the contract tests are made from it."""

    name: str
    title: str
    year: int
    url: str
    time: str
    memory: str
    target: str
    supports: frozenset[str]
    implementations: tuple[str, ...]
    exact_when: Mapping[str, Any] | None
    grid: Mapping[str, Sequence[Any]]
    convex: bool = True
    causal_only: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether the method equals softmax attention whatever its hyperparameters."""
        return self.exact_when is not None and not self.exact_when

    @property
    def causal_choices(self) -> tuple[bool, ...]:
        """The values of `causal` that a call may have."""
        if self.causal_only:
            return (True,)
        return (False, True) if "causal" in self.supports else (False,)


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
    grid: Mapping[str, Sequence[Any]] | None = None,
    convex: bool = True,
    causal_only: bool = False,
) -> Callable[[AttentionClass], AttentionClass]:
    """Enter a class into the registry under the name of the file it stands in.

    `target` is what the method converges to, and decides which contract properties apply.
    `supports` is a subset of `CAPABILITIES`. `exact_when` are hyperparameters at which the method
    equals softmax attention at every practical length. `grid` lists the settings a sweep compares.
    `convex` is False where weights may be negative, or a row of them sum to something else than 1
    (0 if it sees nothing). A `causal_only` method refuses a call that is not causal. A wrong word
    is a ValueError at import.
    """

    def enter(cls: AttentionClass) -> AttentionClass:
        name = cls.__module__.rpartition(".")[2]
        if name in REGISTRY:
            raise ValueError(f"variant {name!r} is registered twice; one file holds one variant")
        if target not in TARGETS:
            raise ValueError(f"{name}: target {target!r} is not one of {', '.join(TARGETS)}")
        if unknown := supports - CAPABILITIES:
            raise ValueError(f"{name}: supports {sorted(unknown)} is not in {sorted(CAPABILITIES)}")
        if causal_only and "causal" not in supports:
            raise ValueError(f"{name}: causal_only needs 'causal' in supports")
        fields = {field.name for field in dataclasses.fields(cls)}
        for field in dataclasses.fields(cls):
            if type(field.default) not in (bool, int, float, str):
                # Rows and the command line carry settings as text.
                raise ValueError(
                    f"{name}: hyperparameter {field.name!r} needs a default of type bool, int, "
                    f"float or str; got {field.default!r}"
                )
        for setting in (*(exact_when or {}), *(grid or {})):
            if setting not in fields:
                raise ValueError(
                    f"{name}: {setting!r} in grid or exact_when is not one of {sorted(fields)}"
                )
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
            grid=grid or {},
            convex=convex,
            causal_only=causal_only,
        )
        REGISTRY[name] = cls
        return cls

    return enter


def create(name: str, **hyperparameters: Any) -> Attention:
    """Make a variant by its registry name: `create("sliding_window", window_size=256)`.

    An unknown name, an unknown hyperparameter or a value out of range is a ValueError that lists
    the valid ones.
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown variant {name!r}; known variants: {', '.join(sorted(REGISTRY))}")
    fields = [field.name for field in dataclasses.fields(REGISTRY[name])]
    if unknown := [word for word in hyperparameters if word not in fields]:
        raise ValueError(
            f"{name} has no hyperparameter {', '.join(map(repr, unknown))}; it has: "
            f"{', '.join(fields)}"
        )
    return REGISTRY[name](**hyperparameters)


def grid(name: str) -> list[Attention]:
    """The settings of a variant that its own file declares worth comparing, defaults otherwise."""
    if name not in REGISTRY:
        create(name)
    axes = REGISTRY[name].info.grid
    return [
        create(name, **dict(zip(axes, point, strict=True))) for point in product(*axes.values())
    ]
