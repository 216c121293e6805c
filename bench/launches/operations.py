"""The cost of one operation of torch on a GPU: kernels, bytes, multiplications and additions.

The numbers of kernels are those of torch's CUDA code for large tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

OWN = "variants_gpu::"  # kernels of this project; they overwrite what they write
# Operations that start no kernel, besides views.
WITHOUT_KERNEL = frozenset(
    {
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "detach",
        "alias",
        "lift_fresh",
        "resize_",
        "set_",
        "is_same_size",
        "_unsafe_view",
        "_reshape_alias",
        "_local_scalar_dense",
    }
)
# Operations that start several kernels. All others start one.
KERNELS = {
    "sort": 6,
    "argsort": 6,
    "topk": 3,
    "kthvalue": 3,
    "cumsum": 2,
    "cumprod": 2,
    "cummax": 2,
    "logcumsumexp": 2,
    "nonzero": 3,
    "bincount": 2,
    "repeat_interleave": 2,
    "index_put_accumulated": 8,  # sorts the indices first
    "randperm": 7,
    "constant_pad_nd": 2,
    "logsumexp": 4,
    "eye": 2,
    "linalg_inv_ex": 10,
    "linalg_solve_triangular": 2,
    "unfold_backward": 2,
    "select_backward": 2,
    "slice_backward": 2,
    "_scaled_dot_product_flash_attention_backward": 3,
    "_scaled_dot_product_efficient_attention_backward": 3,
    "_scaled_dot_product_cudnn_attention_backward": 3,
}
# They read or write only some rows of one operand: as many as the result, or as the source, has.
READS_SOME = frozenset({"index_select", "gather", "index", "embedding", "take_along_dim"})
WRITES_SOME = frozenset(
    {"index_copy_", "index_add_", "index_fill_", "index_put_", "scatter_", "scatter_add_"}
)
OVERWRITES = frozenset({"copy_", "fill_", "zero_"})
PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "dot"})


def name_of(operation: Any) -> str:
    """The name without library and overload: `bmm` for `aten::bmm.out`."""
    return str(operation._schema.name.split("::")[1])


def is_view(operation: Any) -> bool:
    """Whether the results share the memory of an argument and nothing is written."""
    returns = operation._schema.returns
    return bool(returns) and all(
        value.alias_info is not None and not value.alias_info.is_write for value in returns
    )


def kernels(operation: Any, arguments: tuple[Any, ...]) -> int:
    """Kernels that one operation starts."""
    name = name_of(operation)
    if operation._schema.name.startswith(OWN):
        return 1
    if is_view(operation) or name in WITHOUT_KERNEL:
        return 0
    if name in ("index_put_", "index_put") and len(arguments) > 3 and arguments[3]:
        return KERNELS["index_put_accumulated"]
    return KERNELS.get(name, KERNELS.get(name.rstrip("_"), 1))


def nbytes(tensor: Tensor) -> int:
    """Bytes of the elements; an expanded dimension counts once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count * tensor.element_size()


def moved(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Bytes that an operation reads and writes in the memory of the device, each operand once."""
    name = name_of(operation)
    own = operation._schema.name.startswith(OWN)
    results = {id(x): x for x in _tensors(out)}
    reads: dict[int, Tensor] = {}
    writes: dict[int, Tensor] = {}
    for declared, given in _arguments(operation, args, kwargs):
        written = declared.alias_info is not None and declared.alias_info.is_write
        for tensor in _tensors(given):
            results.pop(id(tensor), None)
            if written:
                writes[id(tensor)] = tensor
            if not written or not (own or declared.is_out or name in OVERWRITES):
                reads[id(tensor)] = tensor
    writes |= results
    if name in READS_SOME:
        some = sum(map(nbytes, writes.values()))
        return 2 * some + sum(nbytes(x) for x in reads.values() if not x.is_floating_point())
    if name in WRITES_SOME:
        changed = sum(nbytes(x) for key, x in reads.items() if key not in writes)
        if any(x.is_floating_point() for x in writes.values()):
            source = [x for key, x in reads.items() if key not in writes and x.is_floating_point()]
            changed += (2 if "add" in name else 1) * sum(map(nbytes, source))
        return changed
    repeats = max(1, kernels(operation, args)) if name in ("sort", "argsort", "cumsum") else 1
    return repeats * (sum(map(nbytes, reads.values())) + sum(map(nbytes, writes.values())))


def flops(operation: Any, args: tuple[Any, ...], out: Any) -> float:
    """Multiplications and additions of matrix products and of torch's fused attention."""
    name = name_of(operation)
    if name.startswith("_scaled_dot_product"):
        backward = "backward" in name
        query, key, value = [x for x in _tensors(args) if x.ndim == 4][backward:][:3]
        pairs = query.shape[:3].numel() * key.shape[2]
        causal = True in [x for x in args if isinstance(x, bool)][-1:]
        products = 5.0 if backward else 2.0
        half = 0.5 if causal and query.shape[2] == key.shape[2] else 1.0
        return products * pairs * (query.shape[3] + value.shape[3]) * half
    if name not in PRODUCTS:
        return 0.0
    matrices = _tensors(args)
    left = matrices[1] if name.startswith(("add", "baddbmm")) else matrices[0]
    return 2.0 * _tensors(out)[0].numel() * left.shape[-1]


def _arguments(
    operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[Any, Any]]:
    """The declared arguments with the given values."""
    declared = operation._schema.arguments
    yield from zip(declared, args, strict=False)
    for argument in declared:
        if argument.name in kwargs:
            yield argument, kwargs[argument.name]


def _tensors(value: Any) -> list[Tensor]:
    return [x for x in tree_leaves(value) if isinstance(x, Tensor)]
