"""Transcription by CTC: an encoder learns to spell what is said.

Source: Graves et al. 2006, Connectionist temporal classification. Deviations: the loss is divided by the characters of
all texts together, so a long utterance counts as much as its text is long; an utterance with too few frames for its
text adds no loss and is counted in the journal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allophone.batch import SpeechBatch
from allophone.errors import ConfigError, DataError
from allophone.losses.sequence import ctc_loss
from allophone.methods.base import ParameterGroup, StepOutput
from allophone.models.transcriber import Transcriber


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptionConfig:
    """What is trained."""

    train_encoder: bool = True
    """Whether the encoder is trained, or only the linear layer."""
    encoder_lr_scale: float = 1.0
    """Learning rate of the encoder over the run's."""

    def __post_init__(self) -> None:
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
        if not config.train_encoder:
            model.encoder.requires_grad_(False)
        for name, parameter in model.encoder.named_parameters():
            if name.endswith("masked_spec_embed"):  # stands for hidden frames, and none are hidden here
                parameter.requires_grad_(False)

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
        """CTC loss of one batch.

        Raises:
            DataError: The batch has no texts, or one has a character that the alphabet lacks.
        """
        found = ctc_loss(self.model(batch.waveform, batch.waveform_lengths), self._symbols(batch))
        rows = torch.tensor(len(batch.ids))
        return StepOutput(loss_sum=found.loss_sum, sums={"impossible": (found.impossible, rows)})

    def _symbols(self, batch: SpeechBatch) -> list[list[int]]:
        if batch.texts is None:
            raise DataError("Transcription needs texts; this batch was collated without them (give the stream some).")
        pairs = zip(batch.texts.texts, batch.texts.languages, strict=True)
        return [self.model.symbols(text, language) for text, language in pairs]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Matrices with the run's weight decay, everything else with none; the encoder at its own rate."""
        groups = []
        for part, scale in ((self.model.lm_head, 1.0), (self.model.encoder, self.config.encoder_lr_scale)):
            trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
            groups.append(ParameterGroup(tuple(p for p in trained if p.ndim > 1), scale))
            groups.append(ParameterGroup(tuple(p for p in trained if p.ndim <= 1), scale, weight_decay=0.0))
        return [group for group in groups if group.parameters]

    def artifact(self) -> nn.Module:
        """The transcriber."""
        return self.model
