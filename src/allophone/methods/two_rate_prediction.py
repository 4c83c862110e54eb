"""Masked prediction at two frame rates at once: the loss of MR-HuBERT.

The slow frames predict every second unit of the fast ones (every ``rate_ratio``-th) and are masked where the fast frame
that they stand at is; they have a projection and a unit table of their own. The two sums of cross-entropies are added
and, as in fairseq, divided by the number of fast predictions alone.

Source: Shi et al. 2023, arXiv:2310.02720; fairseq's ``multires_hubert`` with ``use_single_target``. Deviations: none.
Shape letters: B batch, T fast frames, R labels of one frame, N real frames end to end.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from allophone.batch import SpeechBatch
from allophone.errors import ConfigError
from allophone.methods.masked_prediction import MaskedPrediction, MaskedPredictionConfig, Sums, new_table
from allophone.models.mr_hubert import MrHubert
from allophone.models.output import EncoderOutput


class TwoRatePrediction(MaskedPrediction):
    """An encoder with two rates, and a projection and a table of unit embeddings for each."""

    def __init__(self, encoder: MrHubert, config: MaskedPredictionConfig) -> None:
        if not isinstance(encoder, MrHubert):
            raise ConfigError(f"The two-rate loss needs an MR-HuBERT encoder; got a {type(encoder).__name__}.")
        super().__init__(encoder, config)
        self.ratio = encoder.config.rate_ratio
        self.coarse_proj = nn.Linear(encoder.dim, config.projection_dim * config.labels_per_frame)
        self.coarse_embeddings = new_table(config)

    def _predictions(self, output: EncoderOutput, batch: SpeechBatch) -> tuple[Tensor, Sums]:
        assert output.coarse is not None
        fast_sum, fast = super()._predictions(output, batch)
        slow = every(batch, self.ratio)
        slow_sum, sums = self._predict(output.coarse, slow, self.coarse_proj, self.coarse_embeddings, "_coarse")
        return fast_sum + slow_sum, {**fast, **sums}


def every(batch: SpeechBatch, ratio: int) -> SpeechBatch:
    """A batch with every ``ratio``-th frame of its units and masks, the first included; the waveform is the same.

    Units ``(B, T, R)`` become ``(B, ceil(T / ratio), R)``, and so do masks ``(B, T)``.
    """
    return replace(
        batch,
        frame_lengths=torch.div(batch.frame_lengths + ratio - 1, ratio, rounding_mode="floor"),
        units=None if batch.units is None else batch.units[:, ::ratio],
        masked=None if batch.masked is None else batch.masked[:, ::ratio],
    )


def prediction(encoder: nn.Module, config: MaskedPredictionConfig) -> MaskedPrediction:
    """The masked-prediction method that an encoder is pretrained by: at two rates where it has two."""
    return TwoRatePrediction(encoder, config) if isinstance(encoder, MrHubert) else MaskedPrediction(encoder, config)
