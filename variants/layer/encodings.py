"""Position encodings, which also work without a layer, and the choice of one for a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from variants.contract.definitions import compute_dtype
from variants.contract.modes import holds_numbers
from variants.layer.biases import Alibi, RelativeBias
from variants.layer.position_encoding import Position, check_counts

__all__ = ["Alibi", "Learned", "Position", "RelativeBias", "Rotary", "Sinusoidal", "position_for"]


class Sinusoidal(Position):
    """Sines and cosines of the position, added to each token ("Attention Is All You Need", Vaswani
    et al. 2017, https://arxiv.org/abs/1706.03762).

    Sines and cosines are interleaved as in the paper. At position p, channel 2i is
    sin(p / 10000^(2i / embed_dim)) and channel 2i + 1 is the cosine of the same angle.
    """

    takes = "embed_dim"

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        check_counts(embed_dim=embed_dim)
        self.size = embed_dim

    def forward(self, hidden: Tensor, start: int | Tensor = 0) -> Tensor:
        """Add the sines and cosines of positions `start`, `start` + 1, ... to `hidden` (batch,
        tokens, embed_dim), and keep its dtype. `start` is a number, or int64 (batch,) with one
        number for each sequence."""
        _check_width(self, hidden)
        angles = _angles(start, hidden.shape[-2], self.size, 10000.0, hidden.device)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return _sum(hidden, table[..., : self.size])

    added = forward

    def extra_repr(self) -> str:
        return str(self.size)


class Learned(Position):
    """A learned vector for each position, added to each token ("Convolutional Sequence to Sequence
    Learning", Gehring et al. 2017, https://arxiv.org/abs/1705.03122).

    `weight` (max_len, embed_dim) is initialised with a standard deviation of 0.02. Positions
    outside 0 ... max_len - 1 raise ValueError.
    """

    takes = "embed_dim"

    def __init__(
        self,
        embed_dim: int,
        max_len: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts(embed_dim=embed_dim, max_len=max_len)
        self.size = embed_dim
        self.weight = nn.Parameter(torch.empty(max_len, embed_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, hidden: Tensor, start: int | Tensor = 0) -> Tensor:
        """Add the vectors of positions `start`, `start` + 1, ... to `hidden` (batch, tokens,
        embed_dim), and keep its dtype. `start` is a number, or int64 (batch,) with one number for
        each sequence; tokens at negative positions are then padding."""
        _check_width(self, hidden)
        tokens, max_len = hidden.shape[-2], self.weight.shape[0]
        first, last = 0, tokens - 1
        if not isinstance(start, Tensor):
            first, last = start, start + last
        else:
            # A traced program cannot check the positions here; its lookup fails when it runs.
            last = last + int(start.max()) if holds_numbers(start) else 0
        if first < 0 or last >= max_len:
            raise ValueError(
                f"learned positions reach from 0 to {max_len - 1}; got positions {first} to "
                f"{last}: use a larger max_len, or an encoding without a maximum length"
            )
        if isinstance(start, Tensor):
            numbers = _numbers(start, tokens, start.device).clamp(min=0)
            return _sum(hidden, self.weight[numbers])
        return _sum(hidden, self.weight[first : last + 1])

    added = forward

    def extra_repr(self) -> str:
        return f"{self.size}, max_len={self.weight.shape[0]}"


class Rotary(Position):
    """Rotates pairs of channels of query and key by an angle proportional to the position, so that
    their dot product depends only on the distance ("RoFormer", Su et al. 2021,
    https://arxiv.org/abs/2104.09864).

    The angle of pair i grows by base^(-2i / head_dim) with each token. Pair i consists of channels
    i and i + head_dim / 2, as in Llama and transformers. With `interleaved`, it consists of
    channels 2i and 2i + 1, as in the paper. The rotation is computed in float32 at least.
    """

    takes = "head_dim"

    def __init__(self, head_dim: int, base: float = 10000.0, interleaved: bool = False) -> None:
        super().__init__()
        check_counts(head_dim=head_dim)
        if base <= 0:
            raise ValueError(f"base must be a number above 0; got {base!r}")
        if head_dim % 2:
            raise ValueError(
                f"rotary positions rotate pairs of channels: head_dim must be even; got {head_dim}"
            )
        self.size, self.base, self.interleaved = head_dim, float(base), interleaved

    def forward(self, heads: Tensor, start: int | Tensor = 0) -> Tensor:
        """Rotate `heads` (batch, heads, tokens, head_dim) by positions `start`, `start` + 1, ...,
        and keep its dtype. `start` is a number, or int64 (batch,) with one number for each
        sequence."""
        _check_width(self, heads)
        dtype = compute_dtype(heads.dtype)
        angles = _angles(start, heads.shape[-2], self.size, self.base, heads.device)
        if isinstance(start, Tensor):
            angles = angles[:, None]
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        shape = (-1, 2) if self.interleaved else (2, -1)
        pair = -1 if self.interleaved else -2
        first, second = heads.to(dtype).unflatten(-1, shape).unbind(pair)
        turned = [first * cos - second * sin, second * cos + first * sin]
        return torch.stack(turned, dim=pair).flatten(-2).to(heads.dtype)

    turned = forward

    def extra_repr(self) -> str:
        return f"{self.size}, base={self.base}, interleaved={self.interleaved}"


NAMED: dict[str, type[Sinusoidal | Rotary | RelativeBias | Alibi]] = {
    "sinusoidal": Sinusoidal,
    "rotary": Rotary,
    "relative_bias": RelativeBias,
    "alibi": Alibi,
}


def position_for(
    position: Position | str | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    **widths: int,
) -> Position:
    """Return the encoding for a layer of these `widths` (embed_dim, num_heads, head_dim).

    `position` is a name, an instance that fits the widths, or None for no encoding.

    Raises:
        ValueError: an unknown name, another type, or an instance that does not fit.
    """
    if position is None:
        return Position()
    if isinstance(position, str) and position in NAMED:
        made = NAMED[position]
        return made(widths[made.takes]).to(device, dtype)
    if not isinstance(position, Position):
        raise ValueError(
            f"position must be one of {', '.join(NAMED)}, or an instance from "
            "variants.layer.encodings, such as Learned(embed_dim, max_len) or Rotary(head_dim); "
            f"got {position!r}"
        )
    if position.takes and position.size != (width := widths[position.takes]):
        raise ValueError(
            f"position {type(position).__name__} must be made for the layer's {position.takes} "
            f"{width}; got {position.size}"
        )
    return position


def _check_width(position: Position, x: Tensor) -> None:
    if x.ndim < 2 or x.shape[-1] != position.size:
        raise ValueError(
            f"{type(position).__name__}: tokens must be (..., tokens, {position.takes} = "
            f"{position.size}); got {tuple(x.shape)}"
        )


def _sum(hidden: Tensor, table: Tensor) -> Tensor:
    """Add, and round once to the dtype of `hidden`."""
    dtype = compute_dtype(hidden.dtype)
    return (hidden.to(dtype) + table.to(dtype)).to(hidden.dtype)


def _numbers(start: int | Tensor, length: int, device: torch.device) -> Tensor:
    """Return positions from `start`, int64 (length,), or (batch, length) for starts (batch,)."""
    if isinstance(start, Tensor):
        return start[:, None] + torch.arange(length, device=device)
    return torch.arange(start, start + length, device=device)


def _angles(
    start: int | Tensor, length: int, channels: int, base: float, device: torch.device
) -> Tensor:
    """Return p · base^(-2i / channels) for position p and pair i, (length, half the channels
    rounded up), or (batch, ...) for starts (batch,). The dtype is float64: in float32, large angles
    would lose their fractional digits."""
    numbers = _numbers(start, length, device).double()
    steps = torch.arange(0, channels, 2, device=device, dtype=torch.float64)
    return numbers[..., None] * base ** (-steps / channels)
