"""The commands that measure what a question lacks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from importlib.resources import files

from reports.recommender.advice import Advice
from reports.recommender.candidate import Candidate
from reports.recommender.evidence import Evidence

MOST_METHODS = 6
DEVICES = ("cpu", "cuda")
AUTO = "auto"


def commands(evidence: Evidence, advice: Advice) -> list[str]:
    """The commands that measure the methods of an answer at its length and heads.

    There is one for each implementation, as the methods of a sweep have the same ones. If captured
    inputs are too short, the first command captures longer ones.
    """
    question, scene = advice.question, advice.question.scene
    layers = [question.layer] if isinstance(question.layer, int) else evidence.layers(scene)
    inputs, captured = scene.inputs, _capture(scene.inputs, question.seq_len, layers)
    result = []
    named = ",".join(map(str, layers))
    if captured:
        name = f"{captured}-{question.seq_len}.safetensors"
        inputs = " ".join([f"file:{name}", *scene.inputs.split()[1:]])
        result.append(
            f"python -m bench capture --model {captured} --text TEXT.txt "
            f"{f'--layers {named} ' if named else ''}--tokens {question.seq_len} --out {name}"
        )
    methods = _methods(advice)
    # Without any method that is known, all methods are measured with default settings.
    for implementation in dict.fromkeys([one.implementation for one in methods] or [AUTO]):
        own = [one for one in methods if one.implementation == implementation]
        axes = {
            "seq_len": question.seq_len,
            "inputs": inputs,
            "layer": named,
            "variant": ",".join(f"{one.variant} {one.hyperparameters}".strip() for one in own),
            "settings": "" if own else "default",
            "implementation": "" if implementation == AUTO else implementation,
            "dtype": scene.dtype,
            "causal": str(scene.causal).lower(),
            "direction": scene.direction,
            "heads": scene.heads,
            "kv_heads": scene.kv_heads,
            "head_dim": scene.head_dim,
            "batch": scene.batch,
        }
        modules = _modules(evidence, own)
        device = scene.machine.partition(",")[0]
        words = [
            *(word for module in modules for word in ("--import", module)),
            *(("--device", device) if device in DEVICES else ()),
            *(
                word
                for axis, value in axes.items()
                if value != ""
                for word in ("--set", f"{axis}={value}")
            ),
        ]
        result.append(f"python -m bench run {shlex.join(words)}")
    return result


def _methods(advice: Advice) -> list[Candidate]:
    """The chosen method, exact attention, and those that could be chosen with other limits."""
    found = [
        *(one for one in (advice.chosen, advice.exact, advice.chosen_nearby) if one),
        *(rung.candidate for rung in advice.ladder),
        *(
            one
            for one in (other.candidate for other in advice.alternatives)
            if not one.excluded or one.lacks_evidence
        ),
    ]
    return list({one.name: one for one in found}.values())[:MOST_METHODS]


def _modules(evidence: Evidence, methods: Iterable[Candidate]) -> Sequence[str]:
    rows = [row for one in methods for row in one.rows]
    texts = evidence.frame.loc[rows, "modules"]
    return list(dict.fromkeys(module for text in texts for module in text.split()))


def _capture(inputs: str, seq_len: int, layers: Sequence[int]) -> str:
    """The model to capture, if the captured inputs of this name lack tokens or a layer; else empty.

    The contents of a `file:NAME` are not known here.
    """
    name = inputs.split()[0]
    file = files("bench") / "inputs" / f"{name}.safetensors"
    if not file.is_file():
        return ""
    # Its module in `bench` would import torch.
    from safetensors import safe_open

    with safe_open(str(file), "np") as capture:
        facts = capture.metadata()
    has_layers = set(layers) <= set(json.loads(facts["layers"]))
    return "" if int(facts["tokens"]) >= seq_len and has_layers else name
