"""The commands that measure what a question lacks."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from reports.declared import exact_variant
from reports.recommender.advice import Advice
from reports.recommender.candidate import Candidate
from reports.recommender.evidence import Evidence
from reports.recommender.packaged_capture import packaged_capture

MOST_METHODS = 6
DEVICES = ("cpu", "cuda")
AUTO = "auto"
SYNTHETIC = "sinks effective_keys=32"  # the attention of a middle layer of the model


def commands(evidence: Evidence, advice: Advice) -> list[str]:
    """The commands that measure the methods of an answer at its length and heads.

    There is one for each implementation, as the methods of a sweep have the same ones. If captured
    inputs lack the layer, the first command captures it. If the model cannot read as many tokens,
    synthetic inputs are measured.
    """
    question, scene = advice.question, advice.question.scene
    layers = [question.layer] if isinstance(question.layer, int) else evidence.layers(scene)
    named = ",".join(map(str, layers))
    inputs, result = scene.inputs, []
    capture = packaged_capture(scene.inputs)
    if capture and question.seq_len > capture.tokens:
        inputs, named = SYNTHETIC, ""
    elif capture and not set(layers) <= set(capture.layers):
        name = f"{capture.model}-layers.safetensors"
        inputs = " ".join([f"file:{name}", *scene.inputs.split()[1:]])
        result.append(
            f"python -m bench capture --model {capture.model} --text TEXT.txt "
            f"--layers {named} --tokens {question.seq_len} --out {name}"
        )
    methods = _methods(advice)
    # Without any method that is known, all methods are measured with default settings.
    for implementation in dict.fromkeys([one.implementation for one in methods] or [AUTO]):
        own = [one for one in methods if one.implementation == implementation]
        names = [f"{one.variant} {one.hyperparameters}".strip() for one in own]
        if own and implementation == AUTO and not any(one.is_exact for one in own):
            names.append(exact_variant())  # what the others are compared with
        axes = {
            "seq_len": question.seq_len,
            "inputs": inputs,
            "layer": named,
            "variant": ",".join(names),
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
