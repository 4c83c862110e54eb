"""What can be said with some units: a small network from units to a log-mel spectrogram, spoken by Griffin-Lim.

A vocoder that sounds well takes days. Tokenizers are compared by what a recognizer still understands of them, and that
a network learns in minutes, because it is asked for spectra and not for samples. It is trained alike for every
tokenizer, as a linear probe is, and is not a voice to hand over: regression blurs, and Griffin-Lim hums.
Our own; the features are those of HiFi-GAN (:mod:`allophone.audio.mel`) every 10 ms.
Shape letters: B clips, T units, R mel frames of a unit, M mels, D dim, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from allophone.audio.mel import log_mel
from allophone.audio.phase import waveform_of_mel
from allophone.errors import ConfigError, DataError
from allophone.frames import FrameClock
from allophone.seeding import derive, numpy_generator

MEL_HOP = 160
"""Samples from mel frame to mel frame."""
NUM_MELS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeakingProbeConfig:
    """How the probe is trained; the same for all that are compared."""

    seed: int = 0
    """Of first weights and clips."""
    steps: int = 600
    """Updates."""
    clips: int = 8
    """Of each update."""
    crop_seconds: float = 1.6
    """Length of a clip; shorter utterances are left out."""
    dim: int = 192
    """Width."""
    learning_rate: float = 2e-3
    """At first; it falls to nothing in a line."""
    dropout: float = 0.1
    """In every block."""

    def __post_init__(self) -> None:
        if min(self.steps, self.clips, self.dim) < 1 or self.crop_seconds <= 0:
            raise ConfigError(f"A speaking probe needs updates, clips, width and a length of clips; got {self}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Voiced:
    """A recording with its units and whose voice it is."""

    waveform: Tensor
    """Shape ``(S,)``."""
    units: Tensor
    """Shape ``(T,)``, int64."""
    voice: int
    """Row of the probe's table of voices."""


class _Blocks(nn.Module):
    """Residual convolutions over time."""

    def __init__(self, dim: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.layers = nn.ModuleList(nn.Conv1d(dim, dim, 5, padding=2) for _ in range(depth))
        self.dropout = dropout

    def forward(self, hidden: Tensor) -> Tensor:
        """``(B, T, D)`` to the same shape."""
        for norm, layer in zip(self.norms, self.layers, strict=True):
            change = functional.gelu(layer(norm(hidden).transpose(1, 2)).transpose(1, 2))
            hidden = hidden + functional.dropout(change, self.dropout, self.training)
        return hidden


class SpeakingProbe(nn.Module):
    """Units and a voice to log-mel frames, standardized; six units on each side are seen before they are cut up."""

    def __init__(self, num_units: int, voices: int, clock: FrameClock, config: SpeakingProbeConfig) -> None:
        super().__init__()
        if clock.hop % MEL_HOP or clock.receptive_field < clock.hop:
            raise ConfigError(
                f"Units {clock.hop} samples apart are no whole number of {MEL_HOP}-sample frames; the probe takes "
                "units 10, 20, 40 or 80 ms apart."
            )
        self.clock, self.frames = clock, clock.hop // MEL_HOP
        self.unit_embedding, self.voice_embedding = (
            nn.Embedding(num_units, config.dim),
            nn.Embedding(voices, config.dim),
        )
        self.over_units = _Blocks(config.dim, 3, config.dropout)
        self.cut = nn.Linear(config.dim, self.frames * config.dim)
        self.over_frames = _Blocks(config.dim, 2, config.dropout)
        self.out = nn.Linear(config.dim, NUM_MELS)
        self.register_buffer("mean", torch.zeros(NUM_MELS))
        self.register_buffer("deviation", torch.ones(NUM_MELS))

    def forward(self, units: Tensor, voices: Tensor) -> Tensor:
        """Standardized log-mel frames of units ``(B, T)`` in voices ``(B,)``. Shape ``(B, T * R, M)``."""
        hidden = self.over_units(self.unit_embedding(units) + self.voice_embedding(voices)[:, None])
        hidden = self.cut(hidden).reshape(len(units), -1, hidden.shape[-1])
        return cast(Tensor, self.out(self.over_frames(hidden)))

    @torch.inference_mode()
    def speak(self, units: Tensor, voice: int) -> Tensor:
        """Speech of one utterance's units ``(T,)``, aligned with its recording at the first sample. Shape ``(S,)``."""
        mel = self(units[None], torch.tensor([voice]))[0] * self.deviation + self.mean
        before = (self.clock.receptive_field - self.clock.hop) // 2
        return functional.pad(waveform_of_mel(mel, MEL_HOP), (before, 0))


def train_speaking_probe(
    spoken: Sequence[Voiced],
    *,
    num_units: int,
    voices: int,
    clock: FrameClock,
    config: SpeakingProbeConfig,
    progress: Callable[[int, int, dict[str, float]], None] = lambda done, total, facts: None,
) -> SpeakingProbe:
    """Train a probe on recordings and their units; evaluation mode.

    Args:
        spoken: What it learns from; of the same recordings for all tokenizers that are compared.
        num_units: K.
        voices: How many there are.
        clock: How the frames behind the units cut time.
        config: How.
        progress: Called with updates done, all, and the loss.

    Raises:
        ConfigError: The units' hop is not a whole number of mel frames.
        DataError: No recording is as long as a clip.
    """
    torch.manual_seed(derive(config.seed, "speaking probe"))
    probe = SpeakingProbe(num_units, voices, clock, config).train()
    length = max(1, round(config.crop_seconds * clock.rate))
    pairs = [(*aligned(one.waveform, one.units, clock), one.voice) for one in spoken if len(one.units) >= length]
    pairs = [one for one in pairs if len(one[1]) >= length]
    if not pairs:
        raise DataError(f"No recording is {config.crop_seconds} s long; take shorter clips or other recordings.")
    mels = [log_mel(waveform, NUM_MELS, MEL_HOP) for waveform, _, _ in pairs]
    every = torch.cat(mels)
    probe.mean, probe.deviation = every.mean(dim=0), every.std(dim=0).clamp_min(1e-3)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=config.learning_rate, weight_decay=0.01)
    generator = numpy_generator(config.seed, "speaking probe")
    shares = np.array([len(units) for _, units, _ in pairs], dtype=np.float64)
    for step in range(1, config.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, step / 50) * (1 - (step - 1) / config.steps)
        chosen = generator.choice(len(pairs), config.clips, p=shares / shares.sum())
        starts = [int(generator.integers(0, len(pairs[row][1]) - length + 1)) for row in chosen]
        cuts = list(zip(chosen, starts, strict=True))
        units = torch.stack([pairs[row][1][start : start + length] for row, start in cuts])
        wanted = torch.stack([mels[row][probe.frames * start : probe.frames * (start + length)] for row, start in cuts])
        made = probe(units, torch.tensor([pairs[row][2] for row in chosen]))
        loss = (made - (wanted - probe.mean) / probe.deviation).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress(step, config.steps, {"loss": float(loss.detach())})
    return probe.eval()


def aligned(waveform: Tensor, units: Tensor, clock: FrameClock) -> tuple[Tensor, Tensor]:
    """The samples around the centers of frames ``(T * hop,)``, and the units ``(T,)`` that have all of theirs."""
    start = (clock.receptive_field - clock.hop) // 2
    count = min(len(units), (len(waveform) - start) // clock.hop)
    return waveform[start : start + count * clock.hop], units[:count]
