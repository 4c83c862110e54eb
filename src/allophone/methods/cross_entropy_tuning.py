"""Cross-entropy fine-tuning, the baseline of pair tuning: the same encoder and pooling under a linear classifier.

Shape letters: B rows, D dim of the encoder, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allophone.batch import SpeechBatch
from allophone.errors import ConfigError
from allophone.methods.base import ParameterGroup, StepOutput, decaying_groups
from allophone.methods.tuning import TunedEmbedder, TuningConfig, labels_of
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import SpeechEmbedder


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEntropyTuningConfig:
    """The classifier; what of the encoder is trained stands in ``tuning``."""

    num_classes: int
    """C."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """What of the encoder is trained."""

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ConfigError(f"A classifier tells at least 2 classes apart; got {self.num_classes}.")


class CrossEntropyTuning(nn.Module):
    """An embedder under a linear classifier.

    Args:
        speech: Embeds recordings; it is changed in place.
        config: The classifier.
        frozen: Layers below those that are trained, shared with other methods; None = their own.
    """

    def __init__(
        self, speech: SpeechEmbedder, config: CrossEntropyTuningConfig, frozen: FrozenStates | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.tuned = TunedEmbedder(speech, config.tuning, frozen)
        self.head = nn.Linear(speech.dim, config.num_classes)

    def count(self, batch: SpeechBatch) -> Tensor:
        """Rows of the batch. Shape ``()``, int64."""
        return torch.tensor(len(batch.ids))

    def step(self, batch: SpeechBatch) -> StepOutput:
        """Cross-entropy; an utterance of several classes has each with equal probability.

        Raises:
            DataError: The batch has no labels.
        """
        logits = self.head(self.tuned(batch)).float()
        targets = self._targets(labels_of(batch).classes)
        loss_sum = F.cross_entropy(logits, targets, reduction="sum")
        hits = targets.gather(1, logits.detach().argmax(dim=1, keepdim=True)) > 0
        rows = torch.tensor(len(batch.ids))
        return StepOutput(loss_sum, {"accuracy": (hits.sum(), rows)})

    def _targets(self, classes: Tensor) -> Tensor:
        """Shape ``(B, F)`` to ``(B, C)``."""
        known = torch.zeros(len(classes), self.config.num_classes + 1, device=classes.device)
        known = known.scatter(1, classes.where(classes >= 0, self.config.num_classes), 1.0)[:, :-1]
        return known / known.sum(dim=1, keepdim=True)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Those of the tuned embedder, and the classifier at the run's rate."""
        return self.tuned.parameter_groups() + decaying_groups(self.head.parameters(), 1.0)

    def artifact(self) -> nn.Module:
        """The speech embedder, without classifier and adapter."""
        return self.tuned.merged()
