"""HuBERT, wav2vec 2.0 and XLS-R encoders, with the parameter names of ``transformers``.

Source: Hsu et al. 2021, arXiv:2106.07447, section III; Baevski et al. 2020, arXiv:2006.11477, section 2; Babu et al.
2021, arXiv:2111.09296. Deviations: those of :mod:`allophone.models.waveform_encoder`, which has all the parts.
Not here: prediction heads, quantizers, the adapters of MMS and of speech-to-text models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from allophone.errors import ConfigError, suggest
from allophone.models import waveform_encoder
from allophone.models.waveform_encoder import LARGE, WaveformConfig, WaveformEncoder
from allophone.nn.transformer import SelfAttention


@dataclass(frozen=True, kw_only=True, slots=True)
class HubertConfig(WaveformConfig):
    """Sizes and kinds, named as in ``transformers``; defaults are facebook/hubert-base-ls960."""

    model_type: Literal["hubert", "wav2vec2"] = "hubert"
    """Which ``transformers`` class reads the saved folder."""
    feat_proj_layer_norm: bool = True
    """Layer norm before the projection to D."""
    conv_pos_batch_norm: bool = False
    """Batch norm (running statistics) instead of weight norm in the positional convolution."""


RESOLUTIONS: dict[int, dict[str, Any]] = {
    20: {},
    40: {"conv_kernel": (10, 5, 3, 3, 3, 3, 3), "conv_stride": (5, 4, 2, 2, 2, 2, 2)},
    80: {"conv_kernel": (10, 5, 5, 3, 3, 3, 3), "conv_stride": (5, 4, 4, 2, 2, 2, 2)},
}
"""Front ends by the milliseconds between two frames: 20 of HuBERT, 40 of ESPnet's CV-HuBERT, 80 its continuation.

The convolutions of the 80-ms CV-HuBERT (arXiv:2309.15317) are not published; these are our choice.
"""


def published_config(name: str) -> HubertConfig:
    """The architecture of a published family.

    ``hubert-base``, ``hubert-base-40ms``, ``hubert-base-80ms``, ``hubert-large``, ``wav2vec2-base`` or ``xls-r-300m``.

    Raises:
        ConfigError: Another name.
    """
    known: dict[str, dict[str, Any]] = {
        "hubert-base": {},
        "hubert-base-40ms": RESOLUTIONS[40],
        "hubert-base-80ms": RESOLUTIONS[80],
        "hubert-large": {**LARGE, "conv_bias": True},
        "wav2vec2-base": {"model_type": "wav2vec2", "do_normalize": True},
        "xls-r-300m": {**LARGE, "conv_bias": True, "model_type": "wav2vec2"},
    }
    if name not in known:
        raise ConfigError(f"Unknown architecture '{name}'. {suggest(name, known)}")
    return HubertConfig(**known[name])


class Hubert(WaveformEncoder):
    """A waveform encoder whose attention heeds content alone."""

    config: HubertConfig

    def __init__(self, config: HubertConfig) -> None:
        super().__init__(
            config,
            lambda _: SelfAttention(config.hidden_size, config.num_attention_heads, config.attention_dropout),
            normalize_features=config.feat_proj_layer_norm,
            position_batch_norm=config.conv_pos_batch_norm,
        )


def to_transformers(config: HubertConfig) -> dict[str, Any]:
    """The ``config.json`` that ``transformers`` reads."""
    name = {"hubert": "HubertModel", "wav2vec2": "Wav2Vec2Model"}[config.model_type]
    return waveform_encoder.to_transformers(config, name)


def from_transformers(values: dict[str, Any], preprocessor: dict[str, Any]) -> HubertConfig:
    """Read a ``config.json`` of model type ``hubert`` or ``wav2vec2`` and its ``preprocessor_config.json``.

    Raises:
        ConfigError: See :func:`allophone.models.waveform_encoder.from_transformers`.
    """
    return waveform_encoder.from_transformers(HubertConfig, values, preprocessor)
