"""The page of one variant, docs/variants/<name>.md."""

from __future__ import annotations

import torch

import variants
from reports import markdown_table as markdown
from reports.documents import docstrings, pictures
from variants import REGISTRY, Attention
from variants.contract.device import pretended_gpu
from variants.contract.implementations import meaning

HEADS, HEAD_DIM = 8, 64  # in the shapes of learned tensors and in the example of a call
LENGTHS = (256, 1024, 4096)  # tokens; the page shows the size of the decoding state after them

CAPABILITIES = {
    "causal": "`causal=True`",
    "key_padding_mask": "`key_padding_mask`",
    "cross_attention": "queries of another sequence than the keys",
    "backward": "gradients",
    "distance_bias": "`distance_bias`",
    "step": "decoding with `prefill` and `step`",
}
TARGETS = {
    "softmax": "exact softmax attention",
    "masked_softmax": "softmax attention over the keys that the method keeps",
    "biased_softmax": "softmax attention with a term of its own added to the scores",
    "shared_qk_softmax": "softmax attention with the query as the key",
    "other_kernel": "nothing: it is another operator, and is not ranked by its error",
}
KINDS = {bool: "True or False", int: "any integer", float: "any number", str: "any text"}
POSITIONS = {
    "none": "no position",
    "distance": "the distance of query and key",
    "absolute": "positions counted from the first token, or the number of tokens",
}


def text(name: str) -> str:
    """The page as Markdown."""
    info = REGISTRY[name].info
    parts = [
        f"<!-- Generated from variants/{name}.py by `python -m reports docs`. -->",
        f"# {docstrings.title(name)}: `{name}`",
        _sentence(f"{docstrings.summary(name)}. Paper: [{info.title}]({info.url}), {info.year}."),
        _picture(name),
        _call(name),
        "## Definition",
        docstrings.definition(name),
        "## Hyperparameters",
        _hyperparameters(name),
        _learned(name),
        "## Costs",
        f"Time O({info.time}), memory O({info.memory}), with {docstrings.costs(name)}",
        "## Supported properties",
        _supports(name),
        "## Implementations",
        _implementations(name),
        "## Decoding",
        _decoding(name),
        "## Differences from public code",
        _sentence(docstrings.differences(name)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _picture(name: str) -> str:
    shown = pictures.settings(name)
    kind = "causal " if True in REGISTRY[name].info.causal_choices else ""
    return (
        f"![Attention weights of softmax attention and of {name}]"
        f"(../../{pictures.PLACE}/{name}.png)\n\n"
        f"Weights of one {kind}head. Left: softmax attention. Right: `{shown}`. Rows are queries "
        f"and columns are keys, of {pictures.TOKENS} tokens in layer {pictures.LAYER} of "
        "SmolLM2-135M. A darker colour is a larger weight; white is 0, and red is negative."
    )


def _call(name: str) -> str:
    attention = variants.create(name)
    settings = [
        f"{one.name}={one.default!r}"
        for one in variants.hyperparameters(name)
        if one.name in attention.info.knob
    ]
    made = ", ".join([f'"{name}"', *settings])
    causal = True in attention.info.causal_choices
    call = "query, key, value, causal=True" if causal else "query, key, value"
    return "\n".join(
        [
            "```python",
            "import torch",
            "import variants",
            "",
            f"attention = variants.create({made})",
            f"query, key, value = torch.randn(3, 1, {HEADS}, 512, {HEAD_DIM})",
            f"out = attention({call})  # (1, {HEADS}, 512, {HEAD_DIM})",
            "```",
        ]
    )


def _hyperparameters(name: str) -> str:
    found = variants.hyperparameters(name)
    if not found:
        return "None."
    knob = REGISTRY[name].info.knob
    rows = [
        (
            f"`{one.name}`",
            one.doc,
            f"`{one.default}`",
            one.valid or KINDS[one.type],
            "yes" if one.name in knob else "no",
        )
        for one in found
    ]
    header = ("name", "meaning", "default", "valid values", "sweeps vary it")
    return markdown.table(header, rows)


def _learned(name: str) -> str:
    made = {
        attention.hyperparameters: attention.init_parameters(HEADS, HEAD_DIM)
        for attention in variants.grid(name, "default")
    }
    rows = {
        (f"`{key}`", " × ".join(map(str, tensor.shape)))
        for tensors in made.values()
        for key, tensor in tensors.items()
    }
    if not rows:
        return ""
    return (
        f"Learned tensors that `init_parameters({HEADS}, {HEAD_DIM})` returns ({HEADS} heads, "
        f"head_dim {HEAD_DIM}):\n\n{markdown.table(('name', 'shape'), sorted(rows))}"
    )


def _supports(name: str) -> str:
    cls, info = REGISTRY[name], REGISTRY[name].info
    rows = [(text, "yes" if word in info.supports else "no") for word, text in CAPABILITIES.items()]
    if info.causal_only:
        rows[0] = (CAPABILITIES["causal"], "yes; calls without it are refused")
    convex = "yes" if info.convex else "no"
    rows += [
        ("approximates", TARGETS[info.target]),
        ("besides the tokens, a row depends on", POSITIONS[info.positions]),
        ("weights are not negative and sum to 1", convex),
        ("equals softmax attention", _exact(name)),
    ]
    if "causal" in info.supports:
        stable = variants.create(name).prefix_stable
        rows.append(("causal rows stay the same as tokens are added", "yes" if stable else "no"))
    assert set(CAPABILITIES) >= info.supports, cls
    return markdown.table(("property", "value"), rows)


def _exact(name: str) -> str:
    exact = REGISTRY[name].info.exact_when
    if exact is None:
        return "never"
    if not exact:
        return "always"
    (key, value), *others = exact.items()
    assert not others
    return (
        f"with `{key}` as large as the sequence" if value == 1 << 40 else f"with `{key}` = {value}"
    )


def _implementations(name: str) -> str:
    info = REGISTRY[name].info
    rows = []
    for implementation in info.implementations:
        found = meaning(implementation)
        where = ("yes" if device in found.devices else "no" for device in ("cpu", "cuda"))
        rows.append((f"`{implementation}`", found.text, *where))
    first, on_cuda = info.implementations[0], _on_cuda(name)
    chosen = f"uses `{first}`"
    if info.is_exact:
        chosen = "chooses by device and length"
    elif on_cuda != first:
        chosen = f"uses `{first}` on a CPU, and `{on_cuda}` on CUDA if it can run there"
    return (
        f'The default, `implementation="auto"`, {chosen}. `python -m bench list` shows what runs '
        "on this machine.\n\n" + markdown.table(("name", "what it is", "CPU", "CUDA"), rows)
    )


def _on_cuda(name: str) -> str:
    """The implementation that a GPU uses for bfloat16 and heads of 64 channels."""
    query = torch.empty(1, 16, 4096, HEAD_DIM, dtype=torch.bfloat16, device="meta")
    with pretended_gpu("meta"):
        return variants.create(name).choose_implementation(query, query)


def _decoding(name: str) -> str:
    attention = variants.create(name)
    if "step" not in attention.supports:
        return "`prefill` and `step` are not supported."
    sizes = [f"{_state_bytes(attention, length) / 1024:.0f}" for length in LENGTHS]
    table = markdown.table(
        ("tokens so far", *map(str, LENGTHS)), [("KiB held for each head", *sizes)]
    )
    words = _sentence(docstrings.decoding(name))
    return f"{words}\n\nAt the defaults, in float32, with head_dim {HEAD_DIM}:\n\n{table}"


def _state_bytes(attention: Attention, length: int) -> int:
    query = torch.zeros(1, 1, length, HEAD_DIM)
    with torch.no_grad():
        _, state = attention.prefill(query, query, query)
        query = query[:, :, :1]
        _, state = attention.step(state, query, query, query)
    return state.nbytes
