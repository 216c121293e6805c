"""A question, and the scenes of the evidence that it is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from bench.schema.validation import FileError, shown
from reports.recommender.choose import Bounds
from reports.recommender.evidence import Evidence
from reports.recommender.layer_policy import Policy
from reports.recommender.scene import Scene

MOST_NAMED = 12  # values in a message
# The option of each column; other columns cannot be wrong, as any number of heads can be asked.
OPTIONS = {
    "machine": "--machine",
    "inputs": "--inputs",
    "dtype": "--dtype",
    "direction": "--direction",
    "causal": "--causal/--not-causal",
    "head_dim": "--head-dim",
    "batch": "--batch",
}


class QuestionError(FileError):
    """A question has a value that no row has. The message is one sentence with the valid values."""


@dataclass(frozen=True)
class Asked:
    """The values of a scene that a user gave; None for a value that the evidence decides."""

    machine: str | None = None
    inputs: str | None = None
    dtype: str | None = None
    direction: str | None = None
    causal: bool | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Question:
    """A scene, a length, a layer policy and limits."""

    scene: Scene
    seq_len: int
    layer: Policy
    limits: Bounds


def questions(
    evidence: Evidence, asked: Asked, seq_len: int, layer: Policy, limits: Bounds
) -> list[Question]:
    """The question for each machine.

    Raises:
        QuestionError: no row has an asked value, or a layer is asked and the inputs have none.
    """
    scenes = scenes_of(evidence, asked)
    for scene in scenes:
        if scene.heads % scene.kv_heads:
            raise QuestionError(
                f"--kv-heads must divide --heads; got {scene.kv_heads} and {scene.heads}"
            )
    if isinstance(layer, int):
        layered = [scene for scene in scenes if evidence.layers(scene)]
        if not layered:
            raise QuestionError(f"--layer: {scenes[0].inputs} has no layers; got layer {layer}")
        # A layer that was not measured is estimated from others, but not beside its own rows.
        scenes = [scene for scene in layered if layer in evidence.layers(scene)] or layered
    return [Question(scene, seq_len, layer, limits) for scene in scenes]


def scenes_of(evidence: Evidence, asked: Asked) -> list[Scene]:
    """The scene of each machine that has rows of the asked kind, with any number of heads.

    Values that were not asked are those of most rows, captured inputs before others, as many
    key/value heads as query heads before fewer. If no machine has rows of this kind, the scenes
    have none either.

    Raises:
        QuestionError: no row at all has an asked value.
    """
    asked = replace(asked, machine=_machine(evidence, asked.machine))
    known = evidence.scenes()
    if not known:
        raise QuestionError("these runs have no finished row that times attention alone")
    for column, option in OPTIONS.items():
        _check(option, getattr(asked, column), [getattr(one, column) for one in known])
    given = {
        field.name: value
        for field in fields(Asked)
        if (value := getattr(asked, field.name)) is not None
    }
    fixed = {name: value for name, value in given.items() if name in OPTIONS}
    alike = [scene for scene in known if _agrees(scene, fixed)]
    others = alike or [scene for scene in known if _agrees(scene, {"machine": asked.machine})]
    found = []
    for machine in dict.fromkeys(scene.machine for scene in others or known):
        own = [scene for scene in others or known if scene.machine == machine]
        found.append(_completed(evidence, own, given))
    return found


def _completed(evidence: Evidence, scenes: Sequence[Scene], given: Mapping[str, Any]) -> Scene:
    """A scene with the given values; other values are those of the best agreeing scene."""
    best = max(
        scenes,
        key=lambda scene: (
            sum(getattr(scene, name) == value for name, value in given.items()),
            bool(evidence.layers(scene)),
            scene.kv_heads == scene.heads,
            evidence.rows(scene),
        ),
    )
    values = dict(given)
    if "heads" in given and "kv_heads" not in given:
        group = best.group if given["heads"] % best.group == 0 else 1
        values["kv_heads"] = given["heads"] // group
    return replace(best, **values)


def _machine(evidence: Evidence, asked: str | None) -> str | None:
    """The name of the machine that contains the text, if there is only one."""
    if asked is None:
        return None
    names = dict.fromkeys(scene.machine for scene in evidence.scenes())
    found = [name for name in names if asked.lower() in name.lower()]
    if asked in names or len(found) != 1:
        return asked
    return found[0]


def _agrees(scene: Scene, values: Mapping[str, Any]) -> bool:
    return all(value in (None, getattr(scene, name)) for name, value in values.items())


def _check(option: str, value: Any, known: Iterable[Any]) -> None:
    valid = {str(one): None for one in sorted(set(known))}
    if value is None or str(value) in valid:
        return
    close = get_close_matches(str(value), valid, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    names = "; ".join(list(valid)[:MOST_NAMED])
    more = f" and {len(valid) - MOST_NAMED} more" if len(valid) > MOST_NAMED else ""
    raise QuestionError(
        f"{option}: no row of these runs has {shown(str(value))}{hint}; valid: {names}{more}"
    )
