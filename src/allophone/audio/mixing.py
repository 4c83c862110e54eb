"""Another utterance or a noise laid over part of a clip: the two published laws by name, drawn and applied apart.

Sources: ``wavlm``, Chen et al. 2021, arXiv:2110.13900, section III-B, as microsoft/UniSpeech computes it
(``utterance_mixing_dataset.py``); ``espnet``, ``HuBERTCollateFn`` of espnet/espnet, which WavLabLM (arXiv:2309.15317)
was trained with. Shape letters: S samples of the primary, R samples of what is laid over it (the secondary).

Deviations from both: primary and secondary are never written to, so no mixture gets into another one; a secondary is
never its own primary; at least one sample is mixed (UniSpeech may draw none); the cropped clip is what is mixed (ESPnet
mixes first, so that a crop may be covered by more than half); the secondary's power is that of its whole recording
(UniSpeech: of its crop); the sum is scaled down where it would exceed full scale; silence is never amplified.
This file opens no sound and knows no batch; ``data/denoising`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from allophone.errors import ConfigError, ShapeError, suggest

Kind: TypeAlias = Literal["utterance", "noise"]
"""What is laid over a clip."""

SPEECH_RATIO, SPEECH_FRAME, SPEECH_HOP = 0.01, 1024, 512
"""ESPnet's ``detect_non_silence``: a frame is speech above this share of the mean power; samples, samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixConfig:
    """How often what is mixed into a clip, and how loud. Use :meth:`wavlm` or :meth:`espnet` for a published law."""

    law: Literal["wavlm", "espnet"]
    """Name of the law that the other fields were taken from."""
    probability: float
    """Share of clips that are mixed (UniSpeech ``mixing_prob`` 0.2; ESPnet ``noise_apply_prob`` 1.0)."""
    noise_probability: float
    """Share of the mixed clips that get noise, the others another utterance. Both laws 0.1: the WavLM paper's as
    commonly cited (UniSpeech's code has 0 in the dataset and 0.5 in the task), ESPnet's ``dynamic_mixing_prob``."""
    primary_power: Literal["clip", "speech"]
    """Power of the primary in the signal-to-noise ratio: of the whole clip with its pauses (UniSpeech), or of its
    frames above silence (ESPnet). The secondary's is always of the whole recording."""
    utterance_snr_db: tuple[float, float] = (-5.0, 5.0)
    """Range of primary over utterance, larger = quieter interferer (UniSpeech; ESPnet ``dynamic_mixing_gain_db`` 5)."""
    noise_snr_db: tuple[float, float] = (-5.0, 20.0)
    """Range of primary over noise (UniSpeech; ESPnet ``noise_db_range``)."""
    min_samples: int = 1
    """Fewest samples that are mixed (ESPnet 1, UniSpeech 0)."""
    max_share: float = 0.5
    """Largest share of the primary that is covered (both laws: half, so that the primary stays the main speaker)."""
    silence_power: float = 1e-10
    """Mean square below which primary or secondary is silence and nothing is mixed (ESPnet's floor; UniSpeech: 0)."""
    peak: float = 1.0
    """Highest amplitude of a mixture; a louder one is scaled down as a whole, which keeps the ratio. Ours."""

    def __post_init__(self) -> None:
        for name in ("probability", "noise_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"mix.{name} must lie within 0 and 1; got {getattr(self, name)}.")
        for name in ("utterance_snr_db", "noise_snr_db"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ConfigError(f"mix.{name} must be a range, lowest first; got {low} to {high} dB.")
        if not 0.0 < self.max_share <= 0.5 or self.min_samples < 1:
            raise ConfigError(
                f"mix.max_share must lie above 0 and at most 0.5, because the labels are the primary's, and "
                f"mix.min_samples must be at least 1; got {self.max_share} and {self.min_samples}."
            )

    @classmethod
    def wavlm(cls) -> MixConfig:
        """Every fifth clip is mixed, one tenth of these with noise."""
        return cls(law="wavlm", probability=0.2, noise_probability=0.1, primary_power="clip")

    @classmethod
    def espnet(cls) -> MixConfig:
        """Every clip is mixed, one tenth with noise, measured against the primary's speech without its pauses."""
        return cls(law="espnet", probability=1.0, noise_probability=0.1, primary_power="speech")

    def __str__(self) -> str:
        noise = self.probability * self.noise_probability
        return (
            f"law {self.law}: another utterance in {self.probability - noise:.0%} of clips at "
            f"{_range(self.utterance_snr_db)} dB, noise in {noise:.0%} at {_range(self.noise_snr_db)} dB, "
            f"over at most {self.max_share:.0%} of a clip"
        )


LAWS = {"wavlm": MixConfig.wavlm, "espnet": MixConfig.espnet}


def mix_law(name: str) -> MixConfig:
    """The law of a name.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in LAWS:
        raise ConfigError(f"Unknown mixing law {name!r}. {suggest(name, LAWS)}")
    return LAWS[name]()


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """What was drawn for one clip: enough to make the mixture again."""

    kind: Kind
    snr_db: float
    """Power of the primary over that of the scaled secondary."""
    length: int
    """Samples that are covered."""
    start: int
    """First of them in the primary."""
    offset: int
    """First of them in the secondary."""


def draw_kind(config: MixConfig, generator: torch.Generator) -> Kind | None:
    """Whether a clip is mixed, and with what; None = it stays as it is."""
    mixed, noise = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    if mixed >= config.probability:
        return None
    return "noise" if noise < config.noise_probability else "utterance"


def draw_mix(
    kind: Kind, primary_samples: int, secondary_samples: int, config: MixConfig, generator: torch.Generator
) -> Mix | None:
    """Loudness, length and places, all uniform; None where a clip is too short to be covered in part."""
    low, high = config.utterance_snr_db if kind == "utterance" else config.noise_snr_db
    snr_db = low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
    longest = int(config.max_share * primary_samples)
    if longest < config.min_samples or secondary_samples < config.min_samples:
        return None
    length = min(_integer(config.min_samples, longest, generator), secondary_samples)
    return Mix(
        kind=kind,
        snr_db=snr_db,
        length=length,
        start=_integer(0, primary_samples - length, generator),
        offset=_integer(0, secondary_samples - length, generator),
    )


def mix_scale(primary: Tensor, secondary: Tensor, snr_db: float, config: MixConfig) -> float:
    """Factor that brings the secondary to ``snr_db`` below the primary; 0 where either is silent.

    ``sqrt(P_primary / (P_secondary * 10 ** (snr_db / 10)))`` with mean squares over whole recordings, not over the part
    that is mixed.

    Args:
        primary: Shape ``(S,)``, float32.
        secondary: The whole recording. Shape ``(R,)``, float32.
        snr_db: Signal-to-noise ratio.
        config: Which power of the primary counts, and what silence is.
    """
    reference = power(primary) if config.primary_power == "clip" else speech_power(primary)
    other = power(secondary)
    if min(reference, other) <= config.silence_power:
        return 0.0
    return float((reference / (other * 10.0 ** (snr_db / 10.0))) ** 0.5)


def apply_mix(primary: Tensor, secondary: Tensor, mix: Mix, config: MixConfig) -> Tensor:
    """The primary with part of the secondary over it; both stay as they are.

    Args:
        primary: Shape ``(S,)``, float32.
        secondary: The whole recording. Shape ``(R,)``, float32.
        mix: What was drawn for these two lengths.
        config: Which power counts, and the highest amplitude.

    Returns:
        Shape ``(S,)``, float32; ``primary`` itself where either is silent.

    Raises:
        ShapeError: ``mix`` was drawn for shorter or longer recordings.
    """
    end, last = mix.start + mix.length, mix.offset + mix.length
    if end > len(primary) or last > len(secondary):
        raise ShapeError(
            f"A mix of samples {mix.offset} to {last} into samples {mix.start} to {end} does not fit {len(secondary)} "
            f"and {len(primary)} samples. Draw it for these lengths."
        )
    scale = mix_scale(primary, secondary, mix.snr_db, config)
    if scale == 0.0:
        return primary
    mixed = primary.clone()
    mixed[mix.start : end] += scale * secondary[mix.offset : last]
    highest = float(mixed.abs().max())
    return mixed * (config.peak / highest) if highest > config.peak else mixed


def power(waveform: Tensor) -> float:
    """Mean square. ``waveform``: shape ``(S,)``."""
    return float(waveform.double().square().mean()) if len(waveform) else 0.0


def speech_power(waveform: Tensor) -> float:
    """Mean square over frames above silence, as ESPnet's ``detect_non_silence`` finds them. ``waveform``: ``(S,)``."""
    samples = waveform.double()
    if len(samples) < SPEECH_FRAME:
        return power(samples)
    padded = torch.nn.functional.pad(samples, (0, -(len(samples) - SPEECH_FRAME) % SPEECH_HOP))
    frames = padded.unfold(0, SPEECH_FRAME, SPEECH_HOP).square().mean(dim=1)
    loud = frames > SPEECH_RATIO * frames.mean()
    spread = loud.repeat_interleave(SPEECH_HOP)
    spread = torch.cat([spread, loud[-1:].expand(len(samples) - len(spread))])
    return power(samples[spread])


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Uniform over ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _range(pair: tuple[float, float]) -> str:
    return f"{pair[0]:g} to {pair[1]:g}"
