"""How a language is added: the settings of an expansion, and the masked-prediction run behind each iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from allophone.audio.augment import AugmentConfig
from allophone.data.collate import CollateConfig
from allophone.errors import ConfigError
from allophone.nn.masking import span_frames
from allophone.run.base import Base
from allophone.run.config import DataConfig, RunConfig, TargetsConfig
from allophone.train.config import TrainConfig

LONG = 20
"""Updates from which controls and measurements get a process of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpandConfig:
    """How a language is added."""

    seed: int = 0
    """Of clustering, sampling, masks and initialization."""
    rank: int = 24
    """Rank of LoRA (arXiv:2406.14092: 24)."""
    adapt: Literal["attention", "linear"] | None = None
    """What gets LoRA: attention's projections as in the paper, or the feed-forward modules' layers too. None =
    attention in HuBERT, wav2vec 2.0 and WavLM; both in Conformers, where attention alone left probes as they were
    (docs/LOG.md)."""
    steps: int = 1000
    """Updates of LoRA, and as many of the control."""
    learning_rate: float = 1e-3
    """Peak, for LoRA and label table."""
    unmasked_weight: float = 1.0
    """Weight of the loss on visible frames; 0 as in the paper. 1 is how the starter encoder was pretrained, and kept
    languages and few labels fare better with it (docs/LOG.md)."""
    batch_seconds: float = 32.0
    """Audio in a batch."""
    crop_seconds: float = 6.0
    """Longest piece of an utterance in a batch."""
    targets: Literal["base", "codebook", "mfcc39"] = "base"
    """First targets: new clusters of the base's own layer; the base's codebook as it is, with its own table to begin
    with, so that what the base has learned to predict goes on; or clusters of MFCC as in the paper."""
    iterations: int = 1
    """2 repeats LoRA from zero on clusters of the encoder that the first iteration adapted."""
    layer: int | None = None
    """Hidden state that is clustered; None = that of the base's codebook, or the middle."""
    num_units: int | None = None
    """Units; None = as many as the base's codebook has, or 500; of MFCC then at most 100."""
    normalization: Literal["none", "voice"] = "voice"
    """Standardize frames per speaker before clustering."""
    fit_hours: float = 0.5
    """Audio that the clusters are fitted on, evenly over languages."""
    combine: bool = True
    """Preservation by data combination: kept languages' training audio is mixed in."""
    recluster: bool = True
    """Preservation by re-clustering: clusters are fitted on new and kept languages together."""
    kept_hours: float = 0.25
    """Most training audio of each kept language that is combined and clustered."""
    replay: float | None = None
    """Hours of all kept languages together over those of the new one, instead of kept_hours; 1 = as much of both, which
    alpha 1 draws so."""
    alpha: float = 0.5
    """Exponent between languages when data are combined; 0 = all equal, 1 = by hours."""
    units: Literal["refit", "anchored", "frozen"] = "refit"
    """Units of the adapted encoder: fitted anew; the base's ids, moved as their frames moved, and new ones after them;
    or the base's centroids as they are."""
    new_units: int | None = None
    """Units that anchored ones are extended by; None = a tenth as many as there are."""
    move: float = 0.0
    """How far anchored units may follow all frames that are nearest to them: 0 not at all, 1 as in k-means."""
    head_steps: int = 300
    """Updates of a label table for the adapted encoder's own units, so that the next language can be added to it; 0
    makes none."""

    def __post_init__(self) -> None:
        if self.iterations not in (1, 2):
            raise ConfigError(f"An expansion has 1 or 2 iterations; got {self.iterations}.")
        if self.steps < 1 or self.rank < 1:
            raise ConfigError(f"steps and rank must be at least 1; got {self.steps} and {self.rank}.")
        if self.targets == "codebook" and (self.layer is not None or self.num_units is not None):
            raise ConfigError(
                "targets 'codebook' are the base's own units; their layer and number cannot be chosen. Leave layer and "
                "num_units out, or take targets 'base'."
            )
        if (self.replay is not None and self.replay < 0) or not 0 <= self.move <= 1 or (self.new_units or 0) < 0:
            raise ConfigError(
                f"replay and new_units must not be negative and move lie between 0 and 1; got {self.replay}, "
                f"{self.new_units} and {self.move}."
            )


def run_config(
    base: Base, config: ExpandConfig, *, name: str, targets: Literal["base", "codebook", "mfcc39"]
) -> RunConfig:
    """The masked-prediction run behind one iteration of an expansion."""
    encoder = base.encoder
    layer = base.unit_layer() if config.layer is None else config.layer
    num_units = config.num_units or base.num_units()
    of_mfcc = targets == "mfcc39"
    normalization = base.own_units().info.normalization if targets == "codebook" else config.normalization
    return RunConfig(
        name=name,
        seed=config.seed,
        encoder=encoder.config,
        targets=TargetsConfig(
            front_end="mfcc39" if of_mfcc else "model",
            layer=None if of_mfcc else layer,
            num_units=min(num_units, 100) if of_mfcc and config.num_units is None else num_units,
            normalization=normalization,
            fit_hours=config.fit_hours,
        ),
        data=DataConfig(
            collate=CollateConfig(
                crop_seconds=config.crop_seconds,
                mask_probability=0.65,
                mask_length=span_frames(encoder.clock),
                augment=AugmentConfig(),
            ),
            batch_seconds=config.batch_seconds,
            alpha=config.alpha,
            beta=1.0,
        ),
        train=TrainConfig(
            steps=config.steps,
            learning_rate=config.learning_rate,
            warmup_steps=max(1, config.steps // 12),
            weight_decay=0.0,
            max_grad_norm=5.0,
            save_every=max(50, config.steps // 4),
            log_every=max(1, config.steps // 40),
            seed=config.seed,
        ),
        projection_dim=base.heads["label_embeddings"].shape[1] if base.heads is not None else 256,
        unmasked_weight=config.unmasked_weight,
    )


def worth_a_process(config: ExpandConfig) -> bool:
    """Whether an expansion is long enough to share it with a second process."""
    return config.steps >= LONG
