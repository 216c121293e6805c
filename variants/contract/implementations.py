"""The meaning of each implementation name, and the devices on which the implementation runs.

`Attention.cannot_run` depends on the machine, but documents must be the same on every machine.
`tests/test_documents.py` compares this table with `cannot_run`. A name without an entry is a kernel
of this project.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """The description of an implementation, and the devices on which it runs."""

    text: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    compiles: bool = False  # for each shape, at the first call


OWN = Meaning("a kernel of this project, made of torch operations")
MEANINGS = {
    "coarse": Meaning(
        "the kernel of this project with scores in bfloat16: faster, with a larger rounding error"
    ),
    "plain": Meaning("two matrix products and a softmax, for blocks of query rows"),
    "sdpa": Meaning("torch's `scaled_dot_product_attention`"),
    "onednn": Meaning("torch's kernel on inputs that are converted to float32", ("cpu",)),
    "flash": Meaning("torch's FlashAttention kernel", ("cuda",)),
    "cudnn": Meaning("torch's cuDNN kernel", ("cuda",)),
    "efficient": Meaning("torch's memory-efficient kernel", ("cuda",)),
    "triton": Meaning("a kernel of this project in Triton", ("cuda",)),
    "flex": Meaning(
        "torch's FlexAttention; compiles at the first call, and has no gradient on a CPU",
        compiles=True,
    ),
    "xformers": Meaning("xFormers' memory-efficient kernel", ("cuda",)),
    "fla": Meaning("flash-linear-attention; causal, bfloat16", ("cuda",)),
}


def meaning(name: str) -> Meaning:
    """The entry of an implementation's name."""
    return MEANINGS.get(name, OWN)
