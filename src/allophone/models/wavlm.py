"""WavLM encoders, with the parameter names of ``transformers``.

HuBERT's architecture with a bias by distance in all attention, see :mod:`allophone.nn.relative_position`. What WavLM
adds to pretraining, mixed utterances and noise, is data and not in the model.

Source: Chen et al. 2021, arXiv:2110.13900. Deviations: those of the two modules named here and of
:mod:`allophone.models.waveform_encoder`.
Not here: prediction heads, the adapter of speech-to-text models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from allophone.errors import ConfigError, suggest
from allophone.models import waveform_encoder
from allophone.models.waveform_encoder import LARGE, WaveformConfig, WaveformEncoder
from allophone.nn.relative_position import GatedSelfAttention


@dataclass(frozen=True, kw_only=True, slots=True)
class WavlmConfig(WaveformConfig):
    """Sizes and kinds, named as in ``transformers``; defaults are microsoft/wavlm-base."""

    model_type: Literal["wavlm"] = "wavlm"
    """Which ``transformers`` class reads the saved folder."""
    num_buckets: int = 320
    """Biases of each head: a quarter for single distances in each direction, a quarter for ranges of far ones."""
    max_bucket_distance: int = 800
    """Frames from which on all distances share one bias."""

    def __post_init__(self) -> None:
        WaveformConfig.__post_init__(self)  # super() does not find its class in a dataclass with slots
        if self.num_buckets < 4 or self.num_buckets % 2 or self.max_bucket_distance <= self.num_buckets // 4:
            raise ConfigError(
                "num_buckets must be even and at least 4, and max_bucket_distance more than a quarter of it; got "
                f"{self.num_buckets} and {self.max_bucket_distance}."
            )


def published_config(name: str) -> WavlmConfig:
    """The architecture of a published model: ``wavlm-base`` (base-plus is the same) or ``wavlm-large``.

    Raises:
        ConfigError: Another name.
    """
    known: dict[str, dict[str, Any]] = {"wavlm-base": {}, "wavlm-large": LARGE}
    if name not in known:
        raise ConfigError(f"Unknown architecture '{name}'. {suggest(name, known)}")
    return WavlmConfig(**known[name])


class Wavlm(WaveformEncoder):
    """A waveform encoder whose attention heeds content and distance."""

    config: WavlmConfig

    def __init__(self, config: WavlmConfig) -> None:
        super().__init__(
            config,
            lambda index: GatedSelfAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.attention_dropout,
                config.num_buckets,
                config.max_bucket_distance,
                first=index == 0,
            ),
        )


def to_transformers(config: WavlmConfig) -> dict[str, Any]:
    """The ``config.json`` that ``transformers`` reads."""
    return waveform_encoder.to_transformers(config, "WavLMModel")


def from_transformers(values: dict[str, Any], preprocessor: dict[str, Any]) -> WavlmConfig:
    """Read a ``config.json`` of model type ``wavlm`` and its ``preprocessor_config.json``.

    Raises:
        ConfigError: See :func:`allophone.models.waveform_encoder.from_transformers`.
    """
    return waveform_encoder.from_transformers(WavlmConfig, values, preprocessor)
