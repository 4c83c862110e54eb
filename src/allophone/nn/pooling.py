"""From the frames of an utterance to one vector: mean and attention pooling, and a learned mixture of layers.

Only real frames are there, so what stands beyond an utterance's end cannot enter, and an utterance gives the same
vector alone and in company. Shape letters: B utterances, T frames of one, N frames of all, D dim, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allophone.batch import Packed
from allophone.errors import ConfigError, ShapeError
from allophone.nn.attention import by_length

LEAST_VARIANCE = 1e-6
"""Of a dim over an utterance: the root of zero has no slope."""


def mean_pool(hidden: Packed) -> Tensor:
    """Average the frames of each utterance.

    Args:
        hidden: Frames, ``values`` of shape ``(N, D)``; no utterance is empty.

    Returns:
        Shape ``(B, D)``.

    Raises:
        ShapeError: An utterance has no frame.

    Example:
        >>> mean_pool(Packed(torch.tensor([[1.0], [3.0], [5.0]]), (2, 1))).tolist()
        [[2.0], [5.0]]
    """
    _require_frames(hidden)
    return by_length(hidden, lambda frames: frames.mean(dim=1, keepdim=True)).values


class MeanPooling(nn.Module):
    """:func:`mean_pool` as a layer; it has no weights."""

    def forward(self, hidden: Packed) -> Tensor:
        """``(N, D)`` packed to ``(B, D)``."""
        return mean_pool(hidden)


class AttentionPooling(nn.Module):
    """A weighted mean whose weights are learned: each head scores every frame by ``v tanh(W x)``.

    The heads share the dims among them: head h averages its own D / H dims. At the start all weights of an utterance
    are equal, so the layer starts as :class:`MeanPooling`.

    Args:
        dim: D.
        hidden_dim: Rows of W; 0 scores frames by ``v x`` alone, as SAMU-XLS-R (arXiv:2205.08180) does.
        heads: H, a divisor of D.
        statistics: Behind the means, the standard deviations under the same weights; 2 D values then.

    Raises:
        ConfigError: ``heads`` does not divide ``dim``.

    Source:
        Lin et al. 2017, arXiv:1703.03130, equation 6, as Okabe et al. 2018, arXiv:1803.10963, equation 3, take it for
        frames, and equation 6 for the deviations. Deviations: heads share the dims instead of multiplying them; v
        starts at zero.
    """

    def __init__(self, dim: int, hidden_dim: int = 128, heads: int = 1, *, statistics: bool = False) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ConfigError(f"AttentionPooling: {heads} heads cannot share {dim} dims evenly. Choose a divisor.")
        self.hidden = nn.Linear(dim, hidden_dim) if hidden_dim else None
        self.score = nn.Linear(hidden_dim or dim, heads, bias=False)
        nn.init.zeros_(self.score.weight)
        self.statistics = statistics

    def forward(self, hidden: Packed) -> Tensor:
        """Pool each utterance.

        Args:
            hidden: Frames, ``values`` of shape ``(N, D)``.

        Returns:
            Shape ``(B, D)``, or ``(B, 2 D)`` with statistics; dtype of the frames.

        Raises:
            ShapeError: An utterance has no frame.
        """
        _require_frames(hidden)
        scored = hidden.values if self.hidden is None else torch.tanh(self.hidden(hidden.values))
        scores = self.score(scored)
        heads = scores.shape[1]
        together = hidden.with_values(torch.cat([scores.to(hidden.values.dtype), hidden.values], dim=1))

        def pool(rows: Tensor) -> Tensor:
            """``(B, T, H + D)`` to ``(B, 1, D)`` or ``(B, 1, 2 D)``."""
            weights = F.softmax(rows[..., :heads].float(), dim=1).to(rows.dtype)
            values = rows[..., heads:].reshape(*rows.shape[:2], heads, -1)
            mean = torch.einsum("bth,bthd->bhd", weights, values)
            if not self.statistics:
                return mean.flatten(1)[:, None]
            variance = torch.einsum("bth,bthd->bhd", weights, (values - mean[:, None]) ** 2)
            return torch.cat([mean.flatten(1), variance.clamp_min(LEAST_VARIANCE).sqrt().flatten(1)], dim=1)[:, None]

        return by_length(together, pool).values


class LayerWeights(nn.Module):
    """A learned mean of hidden states, weights positive and adding up to one; all equal at the start.

    Args:
        num_states: Hidden states, layers + 1.

    Source:
        Peters et al. 2018, arXiv:1802.05365, equation 1, as SUPERB (arXiv:2105.01051) takes it. Deviations: no common
        factor, which the projection behind it has.
    """

    def __init__(self, num_states: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_states))

    def forward(self, hidden_states: Sequence[Packed]) -> Packed:
        """Mix the states of the same frames.

        Args:
            hidden_states: Each of shape ``(N, D)``.

        Returns:
            Shape ``(N, D)``, packed.

        Raises:
            ShapeError: There are more or fewer states than weights, or their frames differ.
        """
        lengths = {state.lengths for state in hidden_states}
        if len(hidden_states) != len(self.logits) or len(lengths) != 1:
            raise ShapeError(
                f"LayerWeights: {len(hidden_states)} hidden states with {len(lengths)} sets of lengths; expected "
                f"{len(self.logits)} states of the same frames."
            )
        weights = F.softmax(self.logits.float(), dim=0)
        mixed = sum(weight * state.values for weight, state in zip(weights, hidden_states, strict=True))
        assert isinstance(mixed, Tensor)
        return hidden_states[0].with_values(mixed)


def _require_frames(hidden: Packed) -> None:
    if 0 in hidden.lengths:
        raise ShapeError(
            f"Pooling: row {hidden.lengths.index(0)} of the batch has no frame. Leave out what is shorter than one."
        )
