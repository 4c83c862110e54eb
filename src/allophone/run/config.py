"""One training run, complete: what is built, on which targets, from which data, for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from allophone.data.balance import BalancedSubset
from allophone.data.collate import CollateConfig
from allophone.errors import ConfigError
from allophone.methods.masked_prediction import MaskedPredictionConfig
from allophone.models.build import EncoderConfig
from allophone.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsConfig:
    """Where the units come from that the encoder learns to predict."""

    front_end: Literal["mfcc39", "model"]
    """``mfcc39`` for a first iteration, ``model`` for a layer of an earlier encoder."""
    num_units: int
    """K of the k-means."""
    layer: int | None = None
    """Hidden state that is clustered; ``model`` only."""
    normalization: Literal["none", "voice"] = "none"
    """``voice``: frames are standardized per speaker first, so that units say less about who speaks."""
    labels_per_frame: int = 1
    """Units that one encoder frame predicts."""
    iterations: int = 20
    """Most updates of k-means."""
    fit_hours: float = 2.0
    """Audio that the clusters are fitted on, drawn evenly over languages (HuBERT: a tenth of the corpus)."""

    def __post_init__(self) -> None:
        if (self.front_end == "model") != (self.layer is not None):
            raise ConfigError(
                f"targets: front end '{self.front_end}' with layer {self.layer}; only 'model' has a layer."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which audio is heard how often, and how it becomes a batch."""

    collate: CollateConfig
    """Crop, perturbation, masks."""
    batch_seconds: float
    """Most seconds of audio in a batch."""
    min_seconds: float = 0.5
    """Shorter utterances are left out; they are counted per language in the run's result."""
    alpha: float = 1.0
    """Exponent between languages; 1 = as they are, 0 = all equal (mHuBERT-147 0.7)."""
    beta: float = 1.0
    """Exponent between the sources of a language (mHuBERT-147 0.9)."""
    subset: BalancedSubset | None = None
    """Only so much of every language; ``alpha`` and ``beta`` then act on what is left. None = everything."""
    cache_gibibytes: float = 2.0
    """Decoded audio that each process keeps in memory; 2 GiB hold 18.6 hours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A complete pretraining run: one iteration, or one stage of it."""

    name: str
    """Folder name of the iteration."""
    seed: int
    """Of initialization, clustering, sampling, masks and dropout."""
    encoder: EncoderConfig
    """What is trained; its type says which model."""
    targets: TargetsConfig
    """What it predicts."""
    data: DataConfig
    """What it hears."""
    train: TrainConfig
    """For how long and how."""
    projection_dim: int = 256
    """Width of the space in which hidden states meet unit embeddings."""
    table_init: Literal["uniform", "normal"] = "uniform"
    """First values of the unit embeddings."""
    unmasked_weight: float = 0.0
    """Weight of the loss on visible frames."""
    warm_start: bool = False
    """Start from the earlier encoder's weights; HuBERT starts every iteration from random ones."""
    continues: str | None = None
    """Name of the run whose weights, heads, codebook and units this one goes on with, as the second stage of WavLabLM
    does; optimizer and schedule begin anew. None = a run with targets of its own."""

    def __post_init__(self) -> None:
        if self.warm_start and self.continues is not None:
            raise ConfigError(
                f"{self.name}: warm_start takes weights only, continues {self.continues!r} also heads and units; "
                f"choose one."
            )
        if self.warm_start and self.targets.front_end != "model":
            raise ConfigError("warm_start needs an earlier encoder, so targets of front end 'model'.")

    def method(self) -> MaskedPredictionConfig:
        """Heads that fit the targets."""
        return MaskedPredictionConfig(
            num_units=self.targets.num_units,
            labels_per_frame=self.targets.labels_per_frame,
            projection_dim=self.projection_dim,
            table_init=self.table_init,
            unmasked_weight=self.unmasked_weight,
        )
