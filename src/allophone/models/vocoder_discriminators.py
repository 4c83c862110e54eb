"""The judges of a vocoder in training: waveforms folded by several periods, and smoothed to several scales.

Source: Kong et al. 2020, arXiv:2010.05646, section 2.4 and its published code (widths, kernels, groups).
Deviation: weight norm at the first scale too, where the paper has spectral norm; the power iteration of that one goes
on with every forward pass, so a gradient would depend on how a step is cut into micro-batches.
Shape letters: B clips of one length, S samples, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from allophone.errors import ConfigError

SLOPE = 0.1
SCALE_LAYERS = (
    (128, 15, 1, 1),
    (128, 41, 2, 4),
    (256, 41, 2, 16),
    (512, 41, 4, 16),
    (1024, 41, 4, 16),
    (1024, 41, 1, 16),
    (1024, 5, 1, 1),
)
"""Channels, kernel, stride, groups of the layers that judge one scale."""
PERIOD_LAYERS = ((32, 3), (128, 3), (512, 3), (1024, 3), (1024, 1))
"""Channels and stride of the layers that judge one period; kernels of 5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorsConfig:
    """Which judges there are and how wide they are."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Samples by which the waveform is folded, one judge each."""
    scales: int = 3
    """Judges of the waveform smoothed by 1, 2, 4, ..."""
    narrower: int = 1
    """All published widths are divided by this: 1, 2, 4 or 8."""

    def __post_init__(self) -> None:
        if self.narrower not in (1, 2, 4, 8) or self.scales < 0 or min(self.periods, default=1) < 1:
            raise ConfigError(
                f"Discriminators need periods of at least 1, at least 0 scales and widths divided by 1, 2, 4 or 8; got "
                f"{self}."
            )
        if not self.periods and not self.scales:
            raise ConfigError("Without periods and scales there is no discriminator; set adversarial_weight to 0.")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one discriminator makes of a batch of clips."""

    scores: Tensor
    """1 = recorded, 0 = made, at many places. Shape ``(B, places)``."""
    features: tuple[Tensor, ...]
    """Output of each layer, the scores last. Shape ``(B, ...)``."""


class PeriodDiscriminator(nn.Module):
    """Convolutions over every ``period``-th sample."""

    def __init__(self, period: int, narrower: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, *(channels // narrower for channels, _ in PERIOD_LAYERS)]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(widths[i], widths[i + 1], (5, 1), (stride, 1), padding=(2, 0)))
            for i, (_, stride) in enumerate(PERIOD_LAYERS)
        )
        self.conv_post = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge clips ``(B, S)``."""
        missing = -waveform.shape[1] % self.period
        padded = functional.pad(waveform[:, None], (0, missing), mode="reflect")
        folded = padded.reshape(len(waveform), 1, -1, self.period)
        return _judge(folded, self.convs, self.conv_post)


class ScaleDiscriminator(nn.Module):
    """Grouped convolutions over the waveform."""

    def __init__(self, narrower: int) -> None:
        super().__init__()
        widths = [1, *(channels // narrower for channels, *_ in SCALE_LAYERS)]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv1d(widths[i], widths[i + 1], kernel, stride, padding=kernel // 2, groups=groups))
            for i, (_, kernel, stride, groups) in enumerate(SCALE_LAYERS)
        )
        self.conv_post = weight_norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge clips ``(B, S)``."""
        return _judge(waveform[:, None], self.convs, self.conv_post)


def _judge(hidden: Tensor, layers: nn.ModuleList, last: nn.Module) -> Judgement:
    features = []
    for layer in layers:
        hidden = functional.leaky_relu(layer(hidden), SLOPE)
        features.append(hidden)
    scores = last(hidden)
    return Judgement(cast(Tensor, scores.flatten(1)), (*features, scores))


class Discriminators(nn.Module):
    """All judges of one config."""

    def __init__(self, config: DiscriminatorsConfig) -> None:
        super().__init__()
        self.of_periods = nn.ModuleList(PeriodDiscriminator(period, config.narrower) for period in config.periods)
        self.of_scales = nn.ModuleList(ScaleDiscriminator(config.narrower) for _ in range(config.scales))

    def forward(self, waveform: Tensor) -> Sequence[Judgement]:
        """Judge clips of one length.

        Args:
            waveform: Shape ``(B, S)``, float.

        Returns:
            One judgement of each discriminator: periods, then scales.
        """
        judgements: list[Judgement] = [judge(waveform) for judge in self.of_periods]
        smoothed = waveform
        for scale, judge in enumerate(self.of_scales):
            if scale > 0:
                smoothed = functional.avg_pool1d(smoothed[:, None], 4, 2, padding=2)[:, 0]
            judgements.append(judge(smoothed))
        return judgements
