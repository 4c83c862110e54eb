"""Transcription by CTC: an encoder learns to spell what is said, alone or with a decoder that learns it beside.

Source: Graves et al. 2006, Connectionist temporal classification; with a decoder, the weighted sum of both losses of
Kim et al. 2017, arXiv:1609.06773. Deviations: the loss is divided by the characters of all texts together, so a long
utterance counts as much as its text is long; an utterance with too few frames for its text adds no loss of CTC and is
counted in the journal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allophone.batch import SpeechBatch
from allophone.errors import ConfigError
from allophone.losses.sequence import ctc_loss, smoothed_cross_entropy
from allophone.methods.base import ParameterGroup, StepOutput, decaying_groups, freeze_unused, texts_of
from allophone.models.transcriber import CTC_WEIGHT, Transcriber


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptionConfig:
    """What is trained."""

    train_encoder: bool = True
    """Whether the encoder is trained, or only the linear layer."""
    encoder_lr_scale: float = 1.0
    """Learning rate of the encoder over the run's."""
    ctc_weight: float = CTC_WEIGHT
    """Of CTC beside the decoder, where there is one; the decoder has the rest."""
    smoothing: float = 0.1
    """Share of the decoder's target that is spread over the symbols."""

    def __post_init__(self) -> None:
        if not 0 < self.ctc_weight <= 1:
            raise ConfigError(f"ctc_weight must be above 0 and at most 1; got {self.ctc_weight}.")
        if not self.encoder_lr_scale > 0:
            raise ConfigError(f"encoder_lr_scale must be positive; got {self.encoder_lr_scale}. Freeze it instead.")


class Transcription(nn.Module):
    """A transcriber and its loss.

    Args:
        model: The transcriber.
        config: What is trained.
    """

    def __init__(self, model: Transcriber, config: TranscriptionConfig) -> None:
        super().__init__()
        self.config = config
        self.model = model
        freeze_unused(model.encoder, config.train_encoder)

    def train(self, mode: bool = True) -> Transcription:
        """As any module, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not self.config.train_encoder:
            self.model.encoder.eval()
        return self

    def count(self, batch: SpeechBatch) -> Tensor:
        """Characters of the batch. Shape ``()``, int64."""
        return torch.tensor(sum(map(len, self._symbols(batch))))

    def step(self, batch: SpeechBatch) -> StepOutput:
        """Loss of one batch: of CTC, or of CTC and decoder together.

        Raises:
            DataError: The batch has no texts, or one has a character that the alphabet lacks.
        """
        symbols = self._symbols(batch)
        states = self.model.states(batch.waveform, batch.waveform_lengths)
        found = ctc_loss(self.model.spelled(states), symbols)
        sums = {"impossible": (found.impossible, torch.tensor(len(batch.ids)))}
        if self.model.decoder is None:
            return StepOutput(loss_sum=found.loss_sum, sums=sums)
        decoded = smoothed_cross_entropy(*self.model.next_symbols(states, symbols), self.config.smoothing)
        sums |= {"ctc": (found.loss_sum.detach(), found.symbols), "decoder_nll": (decoded.nll_sum, decoded.tokens)}
        weight = self.config.ctc_weight
        return StepOutput(loss_sum=weight * found.loss_sum + (1 - weight) * decoded.loss_sum, sums=sums)

    def _symbols(self, batch: SpeechBatch) -> list[list[int]]:
        texts = texts_of(batch, "Transcription")
        pairs = zip(texts.texts, texts.languages, strict=True)
        return [self.model.symbols(text, language) for text, language in pairs]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Matrices with the run's weight decay, everything else with none; the encoder at its own rate."""
        trained = (p for p in self.model.encoder.parameters() if p.requires_grad)
        new = [*self.model.lm_head.parameters(), *(self.model.decoder.parameters() if self.model.decoder else ())]
        return decaying_groups(new, 1.0) + decaying_groups(trained, self.config.encoder_lr_scale)

    def artifact(self) -> nn.Module:
        """The transcriber."""
        return self.model
