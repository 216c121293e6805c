"""transformers' BigBirdBlockSparseAttention for `bigbird`, with the variant's own random blocks.

In training, the module draws random blocks in every call; in evaluation, it uses the first block
instead. With the blocks of the variant, it computes the same as the definition of the variant.
"""

from __future__ import annotations

import copy
import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bench.peers.packages import needs, require_multiple, rescaled
from variants import UnsupportedError, add_implementation
from variants.bigbird import BigBirdAttention
from variants.contract.definitions import expand_heads

MODULE = "transformers.models.big_bird.modeling_big_bird"
LEAST_BLOCKS = 5  # the module's slices need at least one middle row of blocks
NAME = "transformers' BigBird"


def attend(
    attention: BigBirdAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float,
    **call: Any,
) -> Tensor:
    batch, heads, seq_len, head_dim = query.shape
    block_size, draws = attention.block_size, attention.num_random_blocks
    if attention.num_global_blocks != 2 or draws == 0:
        raise UnsupportedError(f"{NAME} needs two global blocks and at least one random block")
    require_multiple(NAME, seq_len, block_size, LEAST_BLOCKS)
    chosen = _random_blocks(attention, heads, seq_len)

    module = copy.copy(_module(heads, head_dim, block_size, draws))
    # The module calls the first function for each head at the lengths of the paper, and the second
    # one for all heads at other lengths.
    one_head = iter(chosen)
    module._bigbird_block_rand_mask = lambda *_, **__: next(one_head)
    module._bigbird_block_rand_mask_with_head = lambda *_, **__: list(chosen)
    blocked, band, rows, columns = _masks(batch, seq_len, block_size, query.dtype, query.device)
    attend_blocks = module.bigbird_block_sparse_attention
    # transformers 4 requires this argument, transformers 5 does not have it.
    asked = {"output_attentions"} & inspect.signature(attend_blocks).parameters.keys()
    out, _ = attend_blocks(
        rescaled(query, scale),
        expand_heads(key, heads),
        expand_heads(value, heads),
        band,
        rows,
        columns,
        blocked,
        blocked,
        heads,
        draws,
        head_dim,
        block_size,
        block_size,
        batch,
        seq_len,
        seq_len,
        seed=None,
        plan_from_length=None,
        plan_num_rand_blocks=None,
        **dict.fromkeys(asked, False),
    )
    return out.transpose(1, 2)


@lru_cache(maxsize=4)
def _random_blocks(attention: BigBirdAttention, heads: int, seq_len: int) -> Any:
    """Random key blocks of the query blocks that are not global, (heads, blocks - 2, draws)."""
    chosen = attention.pattern(heads, seq_len, seq_len, False).random_blocks
    if chosen is None or bool((chosen[:, 1:-1] < 0).any()):
        raise UnsupportedError(
            f"{NAME} needs {attention.num_random_blocks} random blocks in every row; "
            f"{seq_len // attention.block_size} blocks leave fewer"
        )
    return chosen[:, 1:-1].numpy()


@lru_cache(maxsize=4)
def _module(heads: int, head_dim: int, block_size: int, draws: int) -> Any:
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

    config = BigBirdConfig(
        hidden_size=heads * head_dim,
        num_attention_heads=heads,
        block_size=block_size,
        num_random_blocks=draws,
    )
    with torch.device("meta"):  # the weights are not used
        return BigBirdBlockSparseAttention(config).eval()


@lru_cache(maxsize=4)
def _masks(
    batch: int, seq_len: int, block_size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The masks that the model makes once for all layers, for sequences without padding."""
    from transformers import BigBirdModel

    with torch.inference_mode(False):
        tokens = torch.ones(batch, seq_len, dtype=dtype, device=device)
        masks: tuple[Tensor, Tensor, Tensor, Tensor] = (
            BigBirdModel.create_masks_for_block_sparse_attn(tokens, block_size)
        )
        return masks


add_implementation(
    "bigbird",
    "transformers",
    attend=attend,
    unavailable=needs(MODULE),
    supports={"backward"},
)
