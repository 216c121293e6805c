"""A sweep: axes in a TOML file. Every combination of their values is a case.

Keys at the top of the file are axes of all groups; each `[[group]]` table adds or replaces axes. A
file without groups is one group. Cases are in the order of the values. Three keys at the top are
not axes. `timeout` is the number of seconds after which a case is stopped; the default is 180.
`slow_call` is the number of seconds that a call may take if the method is slower than exact
attention; the default is no limit. `energy` is the number of seconds in which a call is repeated to
measure its energy on a GPU; the default is 0, no energy, because the counter of a GPU needs about a
second for each case.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import variants
from bench import inputs
from bench.schema.case import DIRECTIONS, LAUNCHES, PROJECTIONS, Case
from bench.schema.column_types import DTYPES
from bench.schema.short_forms import whole_dtype, whole_number
from bench.schema.validation import UserError, is_file, name_of, parse_toml, shown
from bench.workloads.attention.decode_steps import stepped_by
from variants import Attention
from variants.contract.registry import SETTINGS
from variants.contract.suggestion import did_you_mean

COUNTS = ("batch", "heads", "kv_heads", "seq_len", "key_len", "head_dim", "width")
DEFAULTS: dict[str, tuple[Any, ...]] = {
    "inputs": ("gaussian",),
    "dtype": ("float32",),
    "batch": (1,),
    "heads": (8,),
    "head_dim": (64,),
    "causal": (False,),
    "direction": ("forward",),
    "seed": (0,),
    "projections": ("none",),
    "launch": ("eager",),
}
# Defaults of the optional axes: every registered variant with the settings of its grid (for
# decode, those with a decoding step); as many keys and key/value heads as queries and query heads;
# the middle layer of a capture. `settings` is the choice of settings for a variant without
# hyperparameters: its whole grid, or only those with the quality knob at its default.
# `other_operators` is whether to include methods that do not approximate softmax attention.
# `longest` has texts `VARIANT=TOKENS`: the longest sequence of a variant that is slow there.
# `width` is the total width of all heads, and replaces head_dim.
OPTIONAL = (
    "variant",
    "settings",
    "other_operators",
    "longest",
    "implementation",
    "layer",
    "kv_heads",
    "key_len",
    "width",
)
SECONDS = {
    "timeout": 1.0,
    "slow_call": 0.0,
    "energy": 0.0,
}  # keys at the top that are not axes, and their minimum
AXES = (*OPTIONAL, "seq_len", *DEFAULTS)
# A value of `causal`: causal for methods that can be causal, not causal for others.
IF_POSSIBLE = "if_possible"
BUILT_IN = Path(__file__).parents[1] / "sweeps"
MOST_CASES = 100_000
MOST_GROUPS = 1_000
LARGEST = {"seq_len": 2**40, "key_len": 2**40}  # of other counts: 2**31


class SweepError(UserError, ValueError):
    """A sweep is invalid or cannot be read. The message is one sentence and names valid values."""


@dataclass(frozen=True)
class Sweep:
    """A name, and the axes of each group; each axis is a tuple of values."""

    name: str
    groups: tuple[Mapping[str, tuple[Any, ...]], ...]
    timeout: float = 180.0  # seconds after which a case is stopped
    energy: float = 0.0  # seconds in which a call is repeated to measure its energy on a GPU
    slow_call: float = math.inf  # limit in seconds for a call that is slower than exact attention

    def overridden(self, settings: Iterable[str]) -> Sweep:
        """A copy in which texts `axis=v1,v2` replace these axes in every group."""
        axes: dict[str, tuple[Any, ...]] = {}
        for axis, values in map(_parse_setting, settings):
            if axis in axes:
                raise SweepError(f"--set {axis} is given twice; write all its values as {axis}=a,b")
            axes[axis] = values
        _check_width("--set", axes)
        replaced = {"width", "head_dim"} if "width" in axes or "head_dim" in axes else set()
        groups: list[dict[str, tuple[Any, ...]]] = []
        for group in self.groups:
            kept = {axis: values for axis, values in group.items() if axis not in replaced}
            changed = {**kept, **axes}
            if changed not in groups:
                groups.append(changed)
        return dataclasses.replace(self, groups=tuple(groups))

    def located(self) -> tuple[Sweep, dict[str, Path]]:
        """A copy in which inputs `file:PATH` are `file:NAME`, as rows must not contain paths.

        Returns:
            The copy, and the path of each NAME.
        """
        files: dict[str, Path] = {}
        groups = []
        for group in self.groups:
            names = []
            for text in group.get("inputs", ()):
                source = inputs.Source.parse(text)
                if source.file is not None:
                    file = Path(source.file)
                    name = name_of(file.name)
                    if (other := files.setdefault(name, file)) != file:
                        raise SweepError(
                            f"rows identify inputs by the name of the file; {name_of(other)} and "
                            f"{name_of(file)} have the same name"
                        )
                    source = dataclasses.replace(source, name=f"file:{name}")
                names.append(str(source))
            groups.append({**group, "inputs": tuple(names)} if names else group)
        return dataclasses.replace(self, groups=tuple(groups)), files

    def cases(self, device: str, files: Mapping[str, Path]) -> list[Case]:
        """All cases without duplicates, shortest first; SweepError if one is invalid."""
        grouped = self.grouped(device, files)
        return sorted((case for group in grouped for case in group), key=_order)

    def grouped(self, device: str, files: Mapping[str, Path]) -> list[list[Case]]:
        """The cases of each group without those of earlier groups; SweepError if one is invalid."""
        found: set[Case] = set()
        groups = []
        for group in self.groups:
            new = dict.fromkeys(c for c in _expand(group, device, files) if c not in found)
            found.update(new)
            _check_count(len(found))
            groups.append(list(new))
        return groups


def read(source: str | Path) -> Sweep:
    """Read a sweep from a TOML file, or a built-in one by its name."""
    path = Path(source)
    if not path.suffix and not is_file(path):
        path = BUILT_IN / f"{source}.toml"
        if not is_file(path):
            known = built_in()
            raise SweepError(
                f"no sweep {shown(str(source))}{did_you_mean(source, known)}; give a .toml file, "
                f"or one of: {', '.join(known)}"
            )
    table = parse_toml(path)
    return parse(name_of(path.stem), table)


def built_in() -> list[str]:
    """The names of the built-in sweeps."""
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def parse(name: str, table: Mapping[str, Any]) -> Sweep:
    """Check a table of axes and return it as a sweep."""
    shared = {key: value for key, value in table.items() if key not in ("group", *SECONDS)}
    groups = table.get("group", [{}])
    if not isinstance(groups, list) or not groups or not all(isinstance(g, dict) for g in groups):
        raise SweepError(f"{name}: groups must be written as [[group]] tables of axes")
    if len(groups) > MOST_GROUPS:
        raise SweepError(f"{name}: at most {MOST_GROUPS} groups are allowed; got {len(groups)}")
    seconds = {key: _seconds(name, key, table[key]) for key in SECONDS if key in table}
    axes = tuple(_check_axes(name, {**shared, **group}) for group in groups)
    return Sweep(name, axes, **seconds)


def _seconds(name: str, key: str, value: Any) -> float:
    least = SECONDS[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 1e9:
        raise SweepError(
            f"{name}: {key} must be a number of seconds, at least {least:g} and at most 1e9; got "
            f"{shown(value)}"
        )
    return float(value)


def _check_width(name: str, axes: Mapping[str, Any]) -> None:
    if "width" in axes and "head_dim" in axes:
        raise SweepError(
            f"{name}: width is heads * head_dim and replaces head_dim; got both, give one of them"
        )


def _check_axes(name: str, axes: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    _check_width(name, axes)
    checked = {}
    for axis, values in axes.items():
        if axis not in AXES:
            raise SweepError(_unknown_axis(name, axis, values))
        listed = values if isinstance(values, (list, tuple)) else [values]
        if not listed:
            raise SweepError(f"{name}: axis {axis!r} has no values")
        checked[axis] = tuple(_check_value(axis, value) for value in listed)
    return checked


def _unknown_axis(name: str, axis: str, values: Any) -> str:
    """The message about an axis that does not exist."""
    owners = [
        variant
        for variant in sorted(variants.REGISTRY)
        if any(axis == known.name for known in variants.hyperparameters(variant))
    ]
    if owners and name == "--set":
        (value, *_) = values
        return (
            f"{name}: {axis} is a hyperparameter of {', '.join(owners)}, not an axis; write it "
            f'behind the variant: python -m bench run --set "variant={owners[0]} {axis}={value}" '
            "(SET= of make splits at spaces)"
        )
    return (
        f"{name}: unknown axis {shown(axis)}{did_you_mean(axis, AXES)}; the axes are: "
        f"{', '.join(sorted(AXES))}"
    )


def _check_value(axis: str, value: Any) -> Any:
    if axis == "dtype" and isinstance(value, str):
        value = whole_dtype(value)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    known = {
        "dtype": DTYPES,
        "direction": DIRECTIONS,
        "projections": PROJECTIONS,
        "launch": LAUNCHES,
        "settings": SETTINGS,
    }
    choices = known.get(axis)
    if choices and value not in choices:
        close = did_you_mean(value, choices)
        raise SweepError(f"{axis} must be one of {', '.join(choices)}; got {shown(value)}{close}")
    if axis in COUNTS and not (is_integer and value >= 1):
        raise SweepError(f"{axis} must be a whole number of at least 1; got {shown(value)}")
    if axis in COUNTS and value > (most := LARGEST.get(axis, 2**31)):
        raise SweepError(f"{axis} must be at most {most}; got {shown(value)}")
    if axis in ("seed", "layer") and not (is_integer and value >= 0):
        raise SweepError(f"{axis} must be a whole number of at least 0; got {shown(value)}")
    if axis == "seed" and value >= 2**63:
        raise SweepError(f"seed must be below 2^63; got {shown(value)}")
    if axis == "causal" and not isinstance(value, bool) and value != IF_POSSIBLE:
        raise SweepError(f"causal must be true, false or {IF_POSSIBLE}; got {shown(value)}")
    if axis == "other_operators" and not isinstance(value, bool):
        raise SweepError(f"other_operators must be true or false; got {shown(value)}")
    if axis == "longest":
        _longest((value,))
    is_text = isinstance(value, str) and value.strip()
    if axis in ("variant", "implementation", "inputs") and not is_text:
        raise SweepError(f"{axis} must be text; got {shown(value)}")
    if axis == "inputs":
        try:
            return str(
                inputs.Source.parse(value)
            )  # the canonical text, as it is part of the case's hash
        except inputs.InputsError as error:
            raise SweepError(str(error)) from error
    return value


def _longest(texts: Iterable[Any]) -> dict[str, int]:
    """The longest sequence of each variant that has a limit."""
    limits = {}
    for text in texts:
        name, _, tokens = str(text).partition("=")
        if name not in variants.REGISTRY or not (longest := whole_number(tokens)):
            raise SweepError(
                f"longest must be VARIANT=TOKENS, such as full=16384; got {shown(text)}"
            )
        limits[name] = longest
    return limits


def _parse_setting(text: str) -> tuple[str, tuple[Any, ...]]:
    axis, equals, values = text.partition("=")
    if not equals:
        raise SweepError(f"write an override as axis=value,value; got {shown(text)}")
    parsed: list[Any] = []
    for word in values.split(","):
        lowered = word.strip().lower()
        if axis == "inputs" and parsed and _continues(parsed[-1], word):
            parsed[-1] += f",{word}"
        elif axis in (*COUNTS, "seed", "layer") and (number := whole_number(word)) is not None:
            parsed.append(number)
        elif axis in ("causal", "other_operators") and lowered in ("true", "false"):
            parsed.append(lowered == "true")
        else:
            parsed.append(word.strip())
    return axis, _check_axes("--set", {axis: parsed})[axis]


def _continues(inputs_text: str, word: str) -> bool:
    """Whether a word after a comma belongs to the name of the file before it."""
    names = (name.partition(":")[0] for name in inputs.KNOWN)
    return inputs_text.startswith("file:") and re.split(r"[\s:]", word.strip())[0] not in names


def attentions_named(text: str, settings: str = "grid") -> list[Attention]:
    """The attentions of a text.

    `"lsh"` gives all settings of its grid, or with `settings` "default" only those with the quality
    knob at its default. `"lsh bucket_size=64"` gives one attention.
    """
    words = text.split()
    return variants.grid(words[0], settings) if len(words) == 1 else [variants.parse(text)]


def _attentions(group: Mapping[str, tuple[Any, ...]]) -> list[Attention]:
    found: list[Attention] = []
    for settings in group.get("settings", ("grid",)):
        for text in group.get("variant", tuple(sorted(variants.REGISTRY))):
            found.extend(attentions_named(text, settings))
    if "implementation" in group:
        found = [
            dataclasses.replace(attention, implementation=name)
            for attention in found
            for name in group["implementation"]
        ]
    if True not in group.get("other_operators", (True,)):
        found = [attention for attention in found if attention.target != "other_kernel"]
    return list(dict.fromkeys(found))


def _expand(
    group: Mapping[str, tuple[Any, ...]], device: str, files: Mapping[str, Path]
) -> Iterable[Case]:
    if "seq_len" not in group:
        raise SweepError("a sweep needs the axis seq_len")
    try:
        attentions = _attentions(group)
        layers = {
            name: _layers(name, group, files) for name in group.get("inputs", DEFAULTS["inputs"])
        }
    except SweepError:
        raise
    except ValueError as error:  # an unknown variant, setting, family or layer; the message is kept
        raise SweepError(str(error)) from error
    axes = {**DEFAULTS, **group}
    limits = _longest(axes.get("longest", ()))
    names = ["width" if name == "head_dim" and "width" in group else name for name in DEFAULTS]
    names.insert(0, "seq_len")
    _check_count(
        math.prod(len(axes[name]) for name in names)
        * len(axes.get("kv_heads", "1"))
        * len(axes.get("key_len", "1"))
        * max(map(len, layers.values()))
        * len(attentions)
    )
    for point in itertools.product(*(axes[name] for name in names)):
        shape = dict(zip(names, point, strict=True))
        if width := shape.pop("width", None):
            shape["head_dim"] = _head_dim(width, shape["heads"])
        for kv_heads, key_len, layer, attention in itertools.product(
            axes.get("kv_heads", (shape["heads"],)),
            axes.get("key_len", (shape["seq_len"],)),
            layers[shape["inputs"]],
            attentions,
        ):
            if max(shape["seq_len"], key_len) > limits.get(attention.info.name, math.inf):
                continue
            if shape["direction"] == "decode" and "variant" not in group:
                if "step" not in attention.supports:
                    continue
                if attention.implementation not in stepped_by():
                    continue
            if shape["heads"] % kv_heads:
                raise SweepError(
                    f"kv_heads must divide heads; got heads={shape['heads']}, kv_heads={kv_heads}"
                )
            yield Case(
                attention=attention,
                device=device,
                kv_heads=kv_heads,
                key_len=key_len,
                layer=layer,
                **(shape | {"causal": _causal(shape["causal"], attention)}),
            )


def _check_count(cases: int) -> None:
    if cases > MOST_CASES:
        raise SweepError(f"a sweep may have {MOST_CASES} cases; got {cases}, so shorten its axes")


def _causal(asked: bool | str, attention: Attention) -> bool:
    return True in attention.info.causal_choices if asked == IF_POSSIBLE else bool(asked)


def _head_dim(width: int, heads: int) -> int:
    if width % heads:
        raise SweepError(f"heads must divide width; got width={width}, heads={heads}")
    return width // heads


def _layers(
    name: str, group: Mapping[str, tuple[Any, ...]], files: Mapping[str, Path]
) -> Sequence[int | None]:
    capture = inputs.open_capture(name, files)
    if capture is None:
        return (None,)
    if "layer" not in group:
        return (capture.layers[len(capture.layers) // 2],)
    for layer in group["layer"]:
        if layer not in capture.layers:
            raise SweepError(f"{name} holds the layers {list(capture.layers)}; got layer {layer}")
    return group["layer"]


def _order(case: Case) -> tuple[Any, ...]:
    """Sort key of cases: short ones first, so that results come early and longer cases can be
    skipped after a failure; cases of one shape together, so that their baselines are measured once.
    """
    size = case.batch * case.heads * max(case.seq_len, case.key_len) * case.head_dim
    shape = tuple("" if x is None else str(x) for x in case.shape)
    lengths = (max(case.seq_len, case.key_len), size, case.seq_len, case.key_len)
    return (*lengths, shape, case.variant)
