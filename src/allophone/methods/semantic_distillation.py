"""Semantic distillation: an utterance gets the vector that a frozen text embedder has for its words.

Source: SAMU-XLS-R, Khurana et al. 2022, arXiv:2205.08180. Shape letters: B utterances, K negatives of one, E dim.

As published: an utterance's frames, pooled by attention and projected with a tanh, against the teacher's vector of its
transcript, one minus the cosine, times a factor; languages balanced with exponent 0.05. The factor is not published
with its value (a public port has 50): 1 here, which Adam does not see, but the other terms are measured by it. Beyond
the paper, off by default: squared error, and contrast over the batch with texts that are nearly right as negatives.

Deviations from the paper: teacher vectors are read from a table and need no teacher in memory; the last layer or a
learned mean of layers, as the embedder's config says; padding never enters the pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allophone.batch import SpeechBatch, Texts
from allophone.errors import ConfigError, DataError
from allophone.losses.distillation import contrast_with_negatives, cosine_distance, squared_error
from allophone.methods.base import ParameterGroup, StepOutput, decaying_groups, freeze_unused, texts_of
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import SpeechEmbedder
from allophone.models.text_teacher import TeacherTable, text_key


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticDistillationConfig:
    """The objective, and what is trained."""

    beta: float = 1.0
    """Weight of one minus the cosine."""
    squared_error_weight: float = 0.0
    """Weight of the squared distance, for vectors that a decoder will read."""
    contrast_weight: float = 0.0
    """Weight of the contrast with other texts."""
    temperature: float = 0.05
    """Divides the cosines of the contrast."""
    train_encoder: bool = True
    """Whether the encoder is trained, or only what stands behind it."""
    encoder_lr_scale: float = 0.01
    """Learning rate of the encoder over the run's (the public port: 1e-5 over 1e-3)."""

    def __post_init__(self) -> None:
        weights = (self.beta, self.squared_error_weight, self.contrast_weight)
        if min(weights) < 0 or sum(weights) == 0 or not self.temperature > 0:
            raise ConfigError(f"Distillation needs weights >= 0, one above 0, and a temperature above 0; got {self}.")


class SemanticDistillation(nn.Module):
    """An embedder and the table that it learns from.

    Args:
        speech: Embeds utterances into the teacher's dims.
        teacher: Vectors of all texts that will come.
        config: The objective.
        weights: Of an utterance of each language (``losses.distillation.balance_weights``); None = all 1.
        negatives: From a text to texts that are nearly right, with vectors in the table; for the contrast.
        frozen: What a frozen encoder says, the layers that are pooled, computed once for each utterance; None = it is
            run in every step.

    Raises:
        ConfigError: The embedder has other dims than the teacher, or states are frozen of an encoder that is trained.
    """

    def __init__(
        self,
        speech: SpeechEmbedder,
        teacher: TeacherTable,
        config: SemanticDistillationConfig,
        *,
        weights: Mapping[str, float] | None = None,
        negatives: Mapping[str, tuple[str, ...]] | None = None,
        frozen: FrozenStates | None = None,
    ) -> None:
        super().__init__()
        if speech.dim != teacher.dim:
            raise ConfigError(f"The embedder has {speech.dim} dims, the teacher {teacher.dim}; make them equal.")
        if frozen is not None and config.train_encoder:
            raise ConfigError("The states of an encoder that is trained change with it: frozen must be None.")
        self.config = config
        self.speech = speech
        self._teacher = teacher
        self._weights = weights
        self._negatives = negatives or {}
        freeze_unused(speech.encoder, config.train_encoder)
        self._frozen = frozen

    def train(self, mode: bool = True) -> SemanticDistillation:
        """As any module, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not self.config.train_encoder:
            self.speech.encoder.eval()
        return self

    def count(self, batch: SpeechBatch) -> Tensor:
        """Utterances of the batch. Shape ``()``, int64."""
        return torch.tensor(len(batch.ids))

    def step(self, batch: SpeechBatch) -> StepOutput:
        """Loss of this batch; with contrast every process must call it.

        Raises:
            DataError: The batch has no texts, the table lacks one, or a language has no weight.
        """
        texts = texts_of(batch, "Distillation")
        if self._frozen is None:
            student = self.speech(batch.waveform, batch.waveform_lengths)
        else:
            student = self.speech.pool(self._frozen(batch.waveform, batch.waveform_lengths))
        device = student.device
        teacher = self._teacher(texts.texts).to(device)
        distance = cosine_distance(student, teacher)
        loss = self.config.beta * distance
        rows = torch.tensor(len(batch.ids))
        sums = {"cosine": ((1 - distance).detach().sum(), rows)}
        if self.config.squared_error_weight > 0:
            error = squared_error(student, teacher)
            loss = loss + self.config.squared_error_weight * error
            sums["squared_error"] = (error.detach().sum(), rows)
        if self.config.contrast_weight > 0:
            told = zip(texts.texts, texts.contents or texts.texts, strict=True)
            keys = torch.tensor([[text_key(text), text_key(content)] for text, content in told], device=device)
            contrast, hits = contrast_with_negatives(
                student, teacher, keys, self.config.temperature, *self._hard(texts, device)
            )
            loss = loss + self.config.contrast_weight * contrast
            sums["accuracy"] = (hits.sum(), rows)
        return StepOutput(loss_sum=(self._weight(texts).to(device) * loss).sum(), sums=sums)

    def _weight(self, texts: Texts) -> Tensor:
        """Shape ``(B,)``, float32."""
        if self._weights is None:
            return torch.ones(len(texts.texts))
        spoken = texts.spoken or texts.languages
        unknown = sorted(set(spoken) - self._weights.keys())
        if unknown:
            raise DataError(f"No weight for {', '.join(unknown)}; there are {', '.join(sorted(self._weights))}.")
        return torch.tensor([self._weights[language] for language in spoken])

    def _hard(self, texts: Texts, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Vectors of hard negatives ``(B, K, E)``, and which there are ``(B, K)``; None where no text has any."""
        known = [self._negatives.get(text, ()) for text in texts.texts]
        width = max(map(len, known))
        if width == 0:
            return None, None
        vectors = torch.zeros(len(known), width, self._teacher.dim)
        valid = torch.zeros(len(known), width, dtype=torch.bool)
        for row, wrong in enumerate(known):
            if wrong:
                vectors[row, : len(wrong)] = self._teacher(wrong)
                valid[row, : len(wrong)] = True
        return vectors.to(device), valid.to(device)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Matrices with the run's weight decay, everything else with none; the encoder at its own rate."""
        inside = {id(parameter) for parameter in self.speech.encoder.parameters()}
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = decaying_groups((p for p in trained if id(p) not in inside), 1.0)
        return groups + decaying_groups((p for p in trained if id(p) in inside), self.config.encoder_lr_scale)

    def artifact(self) -> nn.Module:
        """The speech embedder."""
        return self.speech
