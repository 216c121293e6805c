"""What the names of implementations mean, and on which devices each runs.

`Attention.cannot_run` knows this machine only; documents must be the same everywhere.
`tests/test_documents.py` compares the two. A name without an entry is a kernel of this project.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """An implementation's text, and where it runs."""

    text: str
    devices: tuple[str, ...] = ("cpu", "cuda")


OWN = Meaning("a kernel of this project, made of torch operations")
MEANINGS = {
    "coarse": Meaning("the same with scores in bfloat16: faster, with a larger rounding error"),
    "plain": Meaning("two matrix products around a softmax, for blocks of query rows"),
    "sdpa": Meaning("torch's `scaled_dot_product_attention`"),
    "onednn": Meaning("torch's kernel on inputs that are widened to float32", ("cpu",)),
    "flash": Meaning("torch's FlashAttention kernel", ("cuda",)),
    "cudnn": Meaning("torch's cuDNN kernel", ("cuda",)),
    "efficient": Meaning("torch's memory-efficient kernel", ("cuda",)),
    "flex": Meaning(
        "torch's FlexAttention; compiles when first called, and has no gradient on a CPU"
    ),
    "xformers": Meaning("xFormers' memory-efficient kernel", ("cuda",)),
    "fla": Meaning("flash-linear-attention; causal, bfloat16", ("cuda",)),
}


def meaning(name: str) -> Meaning:
    """The entry of an implementation's name."""
    return MEANINGS.get(name, OWN)
