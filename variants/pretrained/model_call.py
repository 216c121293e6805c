"""A variant as the attention function that a transformers model calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from variants.contract.attention import Attention
from variants.contract.call import Parameters
from variants.contract.checks import UnsupportedError
from variants.contract.registry import create
from variants.layer.learned import LearnedTensors
from variants.pretrained.model_masks import read_mask

# Arguments that models pass to their attention and that do not change its result.
HARMLESS = frozenset(
    {
        "cache",  # `past_key_values` before transformers 5.24
        "cache_position",
        "max_length_k",
        "max_length_q",
        "num_items_in_batch",
        "past_key_values",
        "position_embeddings",
        "position_ids",
        "token_type_ids",
    }
)
# The attribute of a module that holds its learned tensors.
LEARNED = "attention_parameters"
# Older versions of transformers do not pass the scale of GPT-2. The scale is 1 / sqrt(head_dim) if
# a module has these values.
OWN_SCALES = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}


@dataclass(frozen=True)
class AttentionFunction:
    """An attention function for transformers' AttentionInterface. It applies each argument of the
    model, or raises UnsupportedError for it.

    With `layers`, modules with another `layer_idx` use exact attention.
    """

    attention: Attention
    layers: frozenset[int] | None = None

    def replaces(self, module: nn.Module) -> bool:
        """Whether a module uses `attention`."""
        return self.layers is None or getattr(module, "layer_idx", None) in self.layers

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        sliding_window: int | None = None,
        output_attentions: bool | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            module: the caller; its learned tensors are used if `add_parameters` added some.
            query: (batch, heads, query_len, head_dim).
            key, value: (batch, kv_heads, key_len, head_dim).
            attention_mask: a mask for `read_mask`.

        Returns:
            The output (batch, query_len, heads, head_dim), and the weights if `output_attentions`.

        Raises:
            UnsupportedError: the model needs more than scaled attention, causal or not, with
                padding; the call continues from a cache and the attention is not `prefix_stable`.
        """
        attention = self.attention if self.replaces(module) else create("full")
        if is_causal is None:
            is_causal = getattr(module, "is_causal", None)
        sight = read_mask(attention_mask, query, key, causal=is_causal)
        key, value = key[:, :, : sight.key_len], value[:, :, : sight.key_len]
        where = f"{attention.info.name} in {type(module).__name__}"
        if value.shape[-1] != query.shape[-1]:
            raise UnsupportedError(
                f"{where}: variants need values as wide as queries; the model's values have "
                f"{value.shape[-1]} channels, its queries have {query.shape[-1]}"
            )
        asked = [name for name, option in options.items() if _matters(name, option)]
        if sliding_window is not None and sliding_window < sight.key_len:
            asked.append("sliding_window")
        if scaling is None:
            scaling = query.shape[-1] ** -0.5
            asked += [n for n, usual in OWN_SCALES.items() if getattr(module, n, usual) != usual]
        if asked:
            raise UnsupportedError(
                f"{where}: expected scaled attention that is causal or sees all keys, with "
                f"padding; the model also uses {', '.join(sorted(asked))}"
            )
        if dropout and module.training:
            raise UnsupportedError(
                f"{where}: variants have no dropout of attention weights; the model has dropout "
                f"{dropout} in training, so set its attention dropout to 0 or call model.eval()"
            )
        if sight.causal and query.shape[2] != key.shape[2] and not attention.prefix_stable:
            raise UnsupportedError(
                f"{where}: its earlier rows change when tokens are added, so it cannot continue "
                f"from a cache (got {query.shape[2]} queries and {key.shape[2]} keys); generate "
                "with use_cache=False"
            )
        padding = sight.padding
        foreign = not sight.causal and getattr(module, "is_decoder", False)
        if padding is not None and foreign and query.shape[2] == key.shape[2]:
            # Equal numbers of queries and keys would mean the same tokens, so add one hidden key.
            key, value = (pad(x, (0, 0, 0, 1)) for x in (key, value))
            padding = pad(padding, (0, 1), value=True)
        call: dict[str, Any] = {
            "causal": sight.causal,
            "key_padding_mask": padding,
            "scale": scaling,
            "parameters": parameters_of(module, attention),
        }
        out = attention(query, key, value, **call)
        weights = None
        if output_attentions:
            weights = attention.weights(query, key, **call)[..., : sight.key_len]
        return out.transpose(1, 2).contiguous(), weights


class LearnedOf(LearnedTensors):
    """The learned tensors of one attention, in a module that uses it."""

    def __init__(self, attention: Attention, learned: Parameters) -> None:
        super().__init__({name: nn.Parameter(tensor) for name, tensor in learned.items()})
        self.attention = attention


def add_parameters(module: nn.Module, attention: Attention, heads: int, head_dim: int) -> None:
    """Add the learned tensors of a new attention to a module, to train them with the module.
    Existing learned tensors of this attention stay; those of another attention are removed."""
    kept = getattr(module, LEARNED, None)
    if kept is not None and kept.attention == attention:
        return
    if kept is not None:
        delattr(module, LEARNED)
    device = next((tensor.device for tensor in module.parameters()), None)
    if learned := attention.init_parameters(heads, head_dim):
        placed = {name: tensor.to(device) for name, tensor in learned.items()}
        module.add_module(LEARNED, LearnedOf(attention, placed))


def parameters_of(module: nn.Module, attention: Attention) -> Parameters | None:
    """Return the learned tensors of this attention that `add_parameters` added to a module. None if
    there are none: the attention then uses its seeded tensors."""
    kept = getattr(module, LEARNED, None)
    return dict(kept.items()) if kept is not None and kept.attention == attention else None


def _matters(name: str, option: object) -> bool:
    """Whether an argument may change the result. A bool does not."""
    return option is not None and not isinstance(option, bool) and name not in HARMLESS
