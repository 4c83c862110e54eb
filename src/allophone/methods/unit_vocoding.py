"""Training a unit vocoder: recordings must come back from their units, and discriminators must not tell them apart.

Source: Polyak et al. 2021, arXiv:2104.00355 (units), Kong et al. 2020, arXiv:2010.05646 (losses and their weights),
Lee et al. 2022, arXiv:2107.05604 (durations). Shape letters: B clips, S samples, T frames of one unit each.

Two players, one backward pass. The discriminators judge the made clips twice: once as constants, for their own loss,
and once with their own parameters as constants, for the generator's loss. The two graphs share no parameter, so the
gradient of the sum is for each parameter the gradient of its own player's loss, and the one loop trains both.

Deviations from the papers: both players move at once, from the same weights (published: the discriminators first, then
the generator against the new ones); frame and unit are aligned at their centers (published: at the first sample, 2.5 ms
off for HuBERT); durations learn from the inner runs of a clip with all runs as context; weight norm in all
discriminators; no unit is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from allophone.audio.pitch import pitch
from allophone.batch import Packed, SpeechBatch
from allophone.errors import ConfigError, DataError
from allophone.frames import FrameClock
from allophone.losses.vocoder import deceived_loss, duration_loss, feature_loss, mel_loss, told_apart_loss
from allophone.methods.base import ParameterGroup, StepOutput
from allophone.models.unit_vocoder import (
    UnitVocoder,
    normalize_weights,
    pack_units,
    without_repeats,
    without_weight_norm,
)
from allophone.models.vocoder_discriminators import Discriminators, DiscriminatorsConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitVocodingConfig:
    """Weights of the losses."""

    mel_weight: float = 45.0
    """Of the distance of log-mel spectrograms (HiFi-GAN 45)."""
    adversarial_weight: float = 1.0
    """Of deceiving the discriminators; 0 builds none."""
    feature_weight: float = 2.0
    """Of the distance between what discriminators see (HiFi-GAN 2)."""
    duration_weight: float = 1.0
    """Of the duration predictor's loss (Lee et al. 1)."""
    discriminators: DiscriminatorsConfig = field(default_factory=DiscriminatorsConfig)
    """Who judges."""

    def __post_init__(self) -> None:
        weights = (self.mel_weight, self.adversarial_weight, self.feature_weight, self.duration_weight)
        if min(weights) < 0 or self.mel_weight + self.adversarial_weight == 0:
            raise ConfigError(f"Weights of losses are at least 0, and one of mel and adversarial is not; got {self}.")


class UnitVocoding(nn.Module):
    """A vocoder, weight-normalized in place, and its discriminators.

    Args:
        vocoder: What is trained.
        config: Weights of the losses.
        clock: How the frames behind the units cut time; its hop is the vocoder's.
        voices: Rows of the speaker and the language table, by utterance id.

    Raises:
        ConfigError: Hops differ.
    """

    def __init__(
        self,
        vocoder: UnitVocoder,
        config: UnitVocodingConfig,
        clock: FrameClock,
        voices: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__()
        if vocoder.config.hop != clock.hop or clock.receptive_field < clock.hop:
            raise ConfigError(
                f"The units are {clock.hop} samples apart ({clock.receptive_field} wide), the vocoder makes "
                f"{vocoder.config.hop} samples of each. Choose upsample_rates of that product."
            )
        self.config, self.clock, self.voices = config, clock, voices
        self.vocoder = normalize_weights(vocoder)
        self.discriminators = Discriminators(config.discriminators) if config.adversarial_weight > 0 else None

    def count(self, batch: SpeechBatch) -> Tensor:
        """Clips."""
        return torch.tensor(len(batch.ids), device=batch.waveform.device)

    def step(self, batch: SpeechBatch) -> StepOutput:
        """Losses of both players on one micro-batch.

        Raises:
            DataError: The batch has no units, clips of several lengths, or an utterance whose voice is not known.
        """
        units, recorded = self._clips(batch)
        speakers, languages = self._voices(batch)
        melody = pitch(recorded, self.clock.hop).flatten(0, 1) if self.vocoder.config.pitch else None
        made = self.vocoder(units, speakers, languages, melody).values.reshape(recorded.shape)
        count = self.count(batch)
        mel = mel_loss(recorded, made)
        runs, lasts = without_repeats(units)
        duration = duration_loss(self.vocoder.log_durations(runs), lasts, runs.lengths)
        loss_sum = self.config.mel_weight * mel + self.config.duration_weight * duration
        sums = {"mel": mel, "duration": duration}
        if self.discriminators is not None:
            told_apart, deceived, features = self._two_players(self.discriminators, recorded, made)
            generator = self.config.adversarial_weight * deceived + self.config.feature_weight * features
            loss_sum = loss_sum + generator + told_apart
            sums |= {"discriminators": told_apart, "adversarial": deceived, "features": features}
        return StepOutput(loss_sum, {f"loss_{name}": (value.detach(), count) for name, value in sums.items()})

    def _two_players(self, judges: Discriminators, recorded: Tensor, made: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of the discriminators, then the generator's two: clips ``(B, S)`` to three of shape ``()``."""
        of_recorded, of_constant = judges(recorded), judges(made.detach())
        with _constant(judges):
            of_made = judges(made)
        return (
            told_apart_loss([one.scores for one in of_recorded], [one.scores for one in of_constant]),
            deceived_loss([one.scores for one in of_made]),
            feature_loss([one.features for one in of_recorded], [one.features for one in of_made]),
        )

    def _clips(self, batch: SpeechBatch) -> tuple[Packed, Tensor]:
        """Units, one a frame, and the samples around the frames' centers, ``(B, T * hop)``."""
        if batch.units is None:
            raise DataError("A vocoder learns from units; this batch was collated without them.")
        frames = int(batch.frame_lengths[0])
        if batch.units.shape[2] != 1 or not bool((batch.frame_lengths == frames).all()):
            raise DataError(
                f"A vocoder learns from clips of one length and one unit a frame; got {batch.frame_lengths.tolist()} "
                f"frames with {batch.units.shape[2]} units each. Collate with equal_lengths and the units' own clock."
            )
        start = (self.clock.receptive_field - self.clock.hop) // 2
        recorded = batch.waveform[:, start : start + frames * self.clock.hop]
        return pack_units(list(batch.units[:, :frames, 0])), recorded

    def _voices(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """Speakers and languages of the clips, both ``(B,)``."""
        unknown = [name for name in batch.ids if name not in self.voices]
        if unknown:
            raise DataError(f"Nothing says whose voice utterance {unknown[0]!r} is; the vocoder was built without it.")
        rows = torch.tensor([self.voices[name] for name in batch.ids], device=batch.waveform.device)
        return rows[:, 0], rows[:, 1]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Generator and duration predictor, then discriminators."""
        players = (self.vocoder, *([] if self.discriminators is None else [self.discriminators]))
        return [ParameterGroup(tuple(p for p in player.parameters() if p.requires_grad)) for player in players]

    def artifact(self) -> nn.Module:
        """The vocoder without weight norm; the discriminators are not handed over."""
        return without_weight_norm(self.vocoder)


@contextmanager
def _constant(module: nn.Module) -> Iterator[None]:
    """What is computed inside gives the module's parameters no gradient; its inputs get theirs."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
