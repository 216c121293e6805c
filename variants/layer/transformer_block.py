"""An example of a model's block around the layer, with residuals, norms and a perceptron."""

from __future__ import annotations

from torch import Tensor, nn

from variants.contract.decoding import State
from variants.layer.multi_head import MultiHeadAttention


class TransformerBlock(nn.Module):
    """Computes x + attention(norm(x)), then x + mlp(norm(x)), with norms first ("On Layer
    Normalization in the Transformer Architecture", Xiong et al. 2020,
    https://arxiv.org/abs/2002.04745).

    Args:
        attention: the layer for self-attention; the block has the same width, device and dtype.
        hidden_dim: channels between the two linear layers of the perceptron; None means four
            times the width.
    """

    def __init__(self, attention: MultiHeadAttention, hidden_dim: int | None = None) -> None:
        super().__init__()
        width, weight = attention.embed_dim, attention.query_projection.weight
        hidden_dim = 4 * width if hidden_dim is None else hidden_dim
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, width)
        )
        # The attention layer is not converted: its learned tensors may have a wider dtype.
        for module in (self.attention_norm, self.mlp_norm, self.mlp):
            module.to(weight.device, weight.dtype)

    def forward(
        self, hidden: Tensor, *, causal: bool = False, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Map (batch, tokens, embed_dim) to the same shape; arguments of `MultiHeadAttention`."""
        out = self.attention(
            self.attention_norm(hidden), causal=causal, key_padding_mask=key_padding_mask
        )
        return self._rest(hidden + out)

    def prefill(
        self, hidden: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Process the first tokens, as in `MultiHeadAttention.prefill`."""
        out, state = self.attention.prefill(
            self.attention_norm(hidden), key_padding_mask=key_padding_mask
        )
        return self._rest(hidden + out), state

    def step(
        self, state: State, hidden: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Process the next tokens, as in `MultiHeadAttention.step`."""
        out, state = self.attention.step(
            state, self.attention_norm(hidden), key_padding_mask=key_padding_mask
        )
        return self._rest(hidden + out), state

    def _rest(self, hidden: Tensor) -> Tensor:
        rest: Tensor = hidden + self.mlp(self.mlp_norm(hidden))
        return rest
