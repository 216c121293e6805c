"""The name of a case in exports, in the file of counts, and in the time gate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench.schema.case import Case


def benchmark_name(values: Mapping[str, Any]) -> str:
    """A name that no other case has and that is the same in every run.

    It has all columns of the case: first the attention, then the shape, then the inputs. Columns
    are left out at one fixed value each, for example `seed` at 0, so that a name does not depend
    on the other cases of a run.
    """
    case = {name: values[name] for name in Case.columns()}
    parts = [case["variant"], case["hyperparameters"]]
    if case["implementation"] != "auto":
        parts.append(f"implementation={case['implementation']}")
    parts += [
        "causal" if case["causal"] else "not causal",
        case["direction"],
        f"n={case['seq_len']}",
        _unless("key_len", case, case["seq_len"]),
        f"batch={case['batch']}",
        f"heads={case['heads']}",
        _unless("kv_heads", case, case["heads"]),
        f"head_dim={case['head_dim']}",
        case["dtype"],
        case["device"],
        f"inputs={_word(case['inputs'])}",
        _unless("layer", case, None),
        _unless("seed", case, 0),
        _unless("projections", case, "none"),
        _unless("launch", case, "eager"),
    ]
    return " ".join(filter(None, parts))


def _unless(name: str, case: Mapping[str, Any], usual: Any) -> str:
    return "" if case[name] == usual else f"{name}={case[name]}"


def _word(text: str) -> str:
    """The text, quoted if its end could not be told from the next part."""
    return json.dumps(text) if " " in text or '"' in text else text


def count_of_cases(number: int) -> str:
    """A number of cases in words."""
    return "1 case" if number == 1 else f"{number} cases"
