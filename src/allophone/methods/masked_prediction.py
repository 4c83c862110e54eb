"""Masked prediction of units: HuBERT's pretraining, for any encoder family.

Source: Hsu et al. 2021, arXiv:2106.07447, sections II-A to II-C; loss and penalty as fairseq computes them.
Shape letters: B batch, T frames, R labels of one frame, N real frames end to end, K units, E projected dim.

Deviations from the paper: an encoder whose frames are longer than its units predicts R units a frame through one
projection to R * E values and one shared unit table; ``unmasked_weight`` may be above the published 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from allophone.batch import Packed, SpeechBatch, valid_positions
from allophone.errors import ConfigError, DataError
from allophone.losses.masked_prediction import masked_prediction_loss
from allophone.methods.base import ParameterGroup, StepOutput
from allophone.models.output import EncoderOutput

Sums = dict[str, tuple[Tensor, Tensor]]
"""For the journal: name to (sum, count)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedPredictionConfig:
    """Heads and weights of the loss."""

    num_units: int
    """K, rows of the unit table."""
    extra_rows: int = 0
    """Rows of the table that no unit uses; fairseq's dictionaries add 4, which its parameter counts include."""
    table_init: Literal["uniform", "normal"] = "uniform"
    """U(0, 1) as published, or N(0, 1), which has no offset common to all units; short runs learn faster from it."""
    labels_per_frame: int = 1
    """R, units predicted by one frame."""
    projection_dim: int = 256
    """E (HuBERT Base 256, Large 768)."""
    temperature: float = 0.1
    """Divides the cosines."""
    unmasked_weight: float = 0.0
    """Weight of the loss on visible frames (HuBERT 0; its ablation: above 0 helps once units are good)."""
    penalty_weight: float = 10.0
    """Weight of the mean square of convolutional features; without effect on log-mel encoders."""

    def __post_init__(self) -> None:
        if self.num_units < 2 or self.labels_per_frame < 1:
            raise ConfigError(f"Masked prediction needs >= 2 units and >= 1 label a frame; got {self}.")


def new_table(config: MaskedPredictionConfig) -> nn.Parameter:
    """A fresh table of unit embeddings, ``(K + extra rows, E)``."""
    table = torch.empty(config.num_units + config.extra_rows, config.projection_dim)
    return nn.Parameter(table.uniform_() if config.table_init == "uniform" else table.normal_())


class MaskedPrediction(nn.Module):
    """An encoder, a projection and a table of unit embeddings."""

    def __init__(self, encoder: nn.Module, config: MaskedPredictionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.final_proj = nn.Linear(encoder.dim, config.projection_dim * config.labels_per_frame)  # type: ignore[arg-type]
        self.label_embeddings = new_table(config)

    def count(self, batch: SpeechBatch) -> Tensor:
        """Predictions that enter the loss: masked ones, and visible ones when they have weight (as in fairseq)."""
        masked, visible = self._positions(batch)
        items = masked.sum() + (visible.sum() if self.config.unmasked_weight > 0 else 0)
        return items * self.config.labels_per_frame

    def step(self, batch: SpeechBatch) -> StepOutput:
        """Loss of one micro-batch.

        Raises:
            DataError: The batch has no units or no masks, or units of another rate than the heads.
        """
        masked, visible = self._positions(batch)
        output = self.encoder(batch.waveform, batch.waveform_lengths, batch.masked)
        loss_sum, sums = self._predictions(output, batch)
        if output.features_penalty is not None and self.config.penalty_weight > 0:
            mean_square = output.features_penalty / max(output.feature_count, 1)
            loss_sum = loss_sum + self.config.penalty_weight * mean_square * self.count(batch)
        sums["masked_fraction"] = (masked.sum(), masked.sum() + visible.sum())
        return StepOutput(loss_sum=loss_sum, sums=sums)

    def _predictions(self, output: EncoderOutput, batch: SpeechBatch) -> tuple[Tensor, Sums]:
        """Loss sum of masked and, where they have weight, visible frames, and what the journal is told."""
        return self._predict(output.hidden_states[-1], batch, self.final_proj, self.label_embeddings)

    def _predict(
        self, hidden: Packed, batch: SpeechBatch, projection: nn.Module, table: Tensor, suffix: str = ""
    ) -> tuple[Tensor, Sums]:
        """The same for frames ``hidden`` ``(N, D)`` of a batch at their rate; ``suffix`` ends the journal's names."""
        masked, visible = self._positions(batch)
        loss_sum, correct, count = self._loss(hidden, batch, masked, projection, table)
        sums = {"loss_masked" + suffix: (loss_sum.detach(), count), "accuracy_masked" + suffix: (correct, count)}
        if self.config.unmasked_weight > 0:
            visible_sum, correct, count = self._loss(hidden, batch, visible, projection, table)
            loss_sum = loss_sum + self.config.unmasked_weight * visible_sum
            sums["accuracy_unmasked" + suffix] = (correct, count)
        return loss_sum, sums

    def _positions(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """Masked and visible real frames, both ``(B, T)`` bool."""
        if batch.masked is None or batch.units is None:
            raise DataError("Masked prediction needs units and masks; this batch was collated without them.")
        if batch.units.shape[-1] != self.config.labels_per_frame:
            raise DataError(
                f"Batch has {batch.units.shape[-1]} labels a frame, the heads predict {self.config.labels_per_frame}."
            )
        valid = valid_positions(batch.frame_lengths, batch.masked.shape[1])
        return batch.masked & valid, ~batch.masked & valid

    def _loss(
        self, hidden: Packed, batch: SpeechBatch, chosen: Tensor, projection: nn.Module, table: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss sum, correct and count over the frames ``chosen`` ``(B, T)``."""
        assert batch.units is not None
        valid = valid_positions(batch.frame_lengths, chosen.shape[1])
        projected = projection(hidden.values[chosen[valid]])
        units = batch.units[chosen].reshape(-1)
        loss_sum, correct = masked_prediction_loss(
            projected.reshape(-1, self.config.projection_dim), table, units, self.config.temperature
        )
        return loss_sum, correct, torch.tensor(len(units))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Matrices with the run's weight decay; vectors (norms, biases, the mask) with none."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        matrices = tuple(p for p in trainable if p.ndim > 1)
        vectors = tuple(p for p in trainable if p.ndim <= 1)
        groups = [ParameterGroup(matrices), ParameterGroup(vectors, weight_decay=0.0)]
        return [group for group in groups if group.parameters]

    def artifact(self) -> nn.Module:
        """The encoder."""
        return self.encoder
