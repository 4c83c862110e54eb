"""PairTune: an encoder is tuned by supervised contrast of hard pairs, and its projection head thrown away.

Source: Audio ConFit / PairTune, arXiv:2309.11895: encoder, mean over time, projection, supervised contrast with hard
pair mining at temperature 0.1; then the encoder is frozen and read by a linear and a nearest-neighbor probe. Shape
letters: B rows of this process, N rows of all, D dim of the encoder, E dim of the head.

Deviations from the paper: mining rule, learning rates, batch, crop and head were not published; all are named settings
here, with defaults of ours. Pairs are mined among the rows of all processes and the loss is over them. Nothing is mined
in the first batches, as the hardest pairs of an untrained head draw everything to one point. Attention pooling, LoRA
and last-layers training are ours, and so is the formula for several labels.

A contrast spans the batches that all processes hold at the same time; micro-batches of one process are contrasted one
after another. A larger batch than memory holds is made by ``chunk_rows``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allophone.batch import SpeechBatch
from allophone.errors import ConfigError
from allophone.losses.mining import Mined, MiningConfig, mine
from allophone.losses.supervised_contrast import (
    LabelledRows,
    cosines,
    gather_labelled,
    label_weights,
    supervised_contrast_loss,
)
from allophone.methods.base import ParameterGroup, StepOutput, decaying_groups
from allophone.methods.tuning import TunedEmbedder, TuningConfig, labels_of
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import SpeechEmbedder


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTuningConfig:
    """The contrast; what of the encoder is trained stands in ``tuning``."""

    tuning: TuningConfig = field(default_factory=TuningConfig)
    """What of the encoder is trained."""
    temperature: float = 0.1
    """Divides the cosines (the paper's)."""
    mining: MiningConfig = field(default_factory=MiningConfig)
    """Which pairs are kept."""
    unmined_batches: int = 0
    """Batches of the run, from its first, in which every pair counts."""
    hidden_dim: int | None = None
    """Hidden dim of the head; None = D."""
    dim: int = 128
    """E."""

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.unmined_batches < 0 or min(self.dim, self.hidden_dim or 1) < 1:
            raise ConfigError(
                f"Pair tuning needs a positive temperature, dims of at least 1 and no negative batches; got {self}."
            )


class PairTuning(nn.Module):
    """An embedder and a head whose outputs are contrasted.

    Args:
        speech: Embeds recordings; it is changed in place.
        config: The contrast.
        frozen: Layers below those that are trained, shared with other methods; None = their own.
    """

    def __init__(self, speech: SpeechEmbedder, config: PairTuningConfig, frozen: FrozenStates | None = None) -> None:
        super().__init__()
        self.config = config
        self.tuned = TunedEmbedder(speech, config.tuning, frozen)
        hidden = config.hidden_dim or speech.dim
        self.head = nn.Sequential(nn.Linear(speech.dim, hidden), nn.ReLU(), nn.Linear(hidden, config.dim))

    def count(self, batch: SpeechBatch) -> Tensor:
        """Rows of this process with a positive among those of all; every process must call it. Shape ``()``, int64."""
        weights, _ = label_weights(labels_of(batch).classes)
        return (weights > 0).any(dim=1).sum()

    def step(self, batch: SpeechBatch) -> StepOutput:
        """Loss of this process' anchors against the rows of all; every process must call it.

        Raises:
            DataError: The batch has no labels.
        """
        labels, mining = labels_of(batch), self.config.mining
        if labels.place < self.config.unmined_batches:
            mining = replace(mining, rule="none", guard=None)
        embedding = self.tuned(batch)
        rows = gather_labelled(self.head(embedding), labels.classes)
        similarity = cosines(rows)
        mined = mine(similarity.detach(), rows.positives, rows.negatives, mining)
        loss_sum = supervised_contrast_loss(
            similarity, rows.weights, mined.positives, mined.negatives, self.config.temperature
        )
        return StepOutput(loss_sum, contrast_sums(rows, similarity.detach(), mined, embedding.detach()))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Those of the tuned embedder, and the head at the run's rate."""
        return self.tuned.parameter_groups() + decaying_groups(self.head.parameters(), 1.0)

    def artifact(self) -> nn.Module:
        """The speech embedder, without head and adapter."""
        return self.tuned.merged()


def contrast_sums(
    rows: LabelledRows, similarity: Tensor, mined: Mined, embedding: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """What the journal is told of a contrast: who learns, how hard its pairs are, and whether vectors fall together.

    ``active_anchors`` is the share of rows with a positive, ``mined_anchors`` that of those for which the rule needed
    no fallback. ``positive_cosine`` and ``negative_cosine`` are of all pairs, ``kept_*`` of the kept ones; the
    difference is how hard these are. A collapse shows as ``spread`` (1 minus the squared length of the mean direction)
    falling to 0, of the head's outputs or of the embeddings, or as ``effective_dims`` (participation ratio of the
    covariance) falling to 1.

    Args:
        rows: Of the head.
        similarity: Shape ``(B, N)``.
        mined: What is kept.
        embedding: In front of the head. Shape ``(B, D)``.
    """
    positives, negatives = rows.positives, rows.negatives
    active = positives.any(dim=1)
    number = torch.tensor(len(similarity), device=similarity.device)
    of_all = rows.all_rows.detach()
    unit = F.normalize(embedding.float(), dim=-1)
    return {
        "active_anchors": (active.sum(), number),
        "mined_anchors": ((mined.found & active).sum(), active.sum()),
        "kept_positives": ((mined.positives & positives).sum(), positives.sum()),
        "kept_negatives": ((mined.negatives & negatives).sum(), negatives.sum()),
        "positive_cosine": _masked(similarity, positives),
        "negative_cosine": _masked(similarity, negatives),
        "kept_positive_cosine": _masked(similarity, mined.positives),
        "kept_negative_cosine": _masked(similarity, mined.negatives),
        "head_spread": (_spread(of_all) * number, number),
        "embedding_spread": (_spread(unit) * number, number),
        "effective_dims": (_effective_dims(of_all) * number, number),
    }


def _masked(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return (values * mask).sum(), mask.sum()


def _spread(unit: Tensor) -> Tensor:
    return 1 - unit.mean(dim=0).square().sum()


def _effective_dims(unit: Tensor) -> Tensor:
    """``tr(C)^2 / tr(C^2)`` of the covariance C, from the Gram matrix, which has the same eigenvalues."""
    centered = unit - unit.mean(dim=0)
    gram = centered @ centered.T
    return gram.trace().square() / gram.square().sum().clamp(min=torch.finfo(gram.dtype).tiny)
