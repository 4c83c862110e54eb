"""MR-HuBERT: layers at 20 ms, at 40 ms and at 20 ms again, in one encoder that is trained at both rates.

``transformers`` has no such class: a saved folder (``model_type`` ``mr-hubert``) opens with
:func:`allophone.models.conversion.load_encoder` only.

Source: Shi et al. 2023, arXiv:2310.02720, and fairseq's ``multires_hubert`` for the details: a positional convolution
in the first block only, the output of the middle block added to its input, the output of the first block added to that
of the last, sampling modules of kernel 1.
Deviations: norms of the sampling modules see real frames only (fairseq: padding too); where an utterance has an odd
number of frames, the surplus one of the upsampling is cut before the last block instead of behind it; no layer drop.
Shape letters: B batch, S samples, T frames, N real frames of a batch end to end, D dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from allophone.batch import Packed
from allophone.errors import ConfigError
from allophone.frames import FrameClock
from allophone.models import waveform_encoder
from allophone.models.output import EncoderOutput, checked_depth
from allophone.models.waveform_encoder import LARGE, TransformerEncoder, WaveformConfig, WaveformEncoder, initialize
from allophone.nn.resampling import RateAdapter, cut
from allophone.nn.transformer import SelfAttention


@dataclass(frozen=True, kw_only=True, slots=True)
class MrHubertConfig(WaveformConfig):
    """Sizes and kinds, named as in ``transformers`` where HuBERT has them; defaults are the published base model."""

    model_type: Literal["mr-hubert"] = "mr-hubert"
    """What the saved folder is recognized by."""
    block_layers: tuple[int, int, int] = (4, 4, 4)
    """Layers at the fast rate, at the slow one and at the fast one again; together ``num_hidden_layers``."""
    rate_ratio: int = 2
    """Fast frames for each slow one."""
    adapter_kernel: int = 1
    """Frames that the convolutions of the sampling modules see; odd."""

    def __post_init__(self) -> None:
        WaveformConfig.__post_init__(self)  # super() does not find its class in a dataclass with slots
        if len(self.block_layers) != 3 or min(self.block_layers) < 1 or self.rate_ratio < 2:
            raise ConfigError(
                f"MR-HuBERT has three blocks of at least one layer and a rate_ratio >= 2; got block_layers "
                f"{self.block_layers} and rate_ratio {self.rate_ratio}."
            )
        if sum(self.block_layers) != self.num_hidden_layers:
            raise ConfigError(
                f"block_layers {self.block_layers} add up to {sum(self.block_layers)}, num_hidden_layers says "
                f"{self.num_hidden_layers}. Change one of them."
            )
        if self.published_padding:
            raise ConfigError("published_padding is for models of transformers, which has no MR-HuBERT. Leave it off.")

    @property
    def coarse_clock(self) -> FrameClock:
        """Of the middle block, whose frame j stands at fast frame ``rate_ratio * j``."""
        clock = self.clock
        return FrameClock(hop=clock.hop * self.rate_ratio, receptive_field=clock.receptive_field)


def published_config(name: str) -> MrHubertConfig:
    """The architecture of a published model: ``mr-hubert-base`` or ``mr-hubert-large``.

    Raises:
        ConfigError: Another name.
    """
    if name == "mr-hubert-base":
        return MrHubertConfig()
    if name == "mr-hubert-large":
        return MrHubertConfig(**{**LARGE, "conv_bias": False, "block_layers": (8, 8, 8)})
    raise ConfigError(f"Unknown architecture '{name}'. Known: mr-hubert-base, mr-hubert-large.")


class MrHubert(WaveformEncoder):
    """A waveform encoder with a slow block between two fast ones.

    Its hidden states all have the fast rate: those of the slow block are repeated. The slow frames themselves are the
    output's ``coarse``.
    """

    config: MrHubertConfig

    def __init__(self, config: MrHubertConfig) -> None:
        first, middle, last = config.block_layers

        def attention(_: int) -> SelfAttention:
            return SelfAttention(config.hidden_size, config.num_attention_heads, config.attention_dropout)

        super().__init__(config, attention, own_layers=first)
        ratio, kernel = config.rate_ratio, config.adapter_kernel
        self.coarse_clock = config.coarse_clock
        self.downsampling = RateAdapter(config.hidden_size, 1, ratio, kernel)
        self.middle = TransformerEncoder(config, attention, middle, None)
        self.upsampling = RateAdapter(config.hidden_size, ratio, 1, kernel)
        self.decoder = TransformerEncoder(config, attention, last, None)
        initialize(self.middle)
        initialize(self.decoder)

    def forward(
        self,
        waveform: Tensor,
        waveform_lengths: Tensor,
        masked: Tensor | None = None,
        num_layers: int | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz; what lies beyond a length is never read.
            waveform_lengths: Shape ``(B,)``, int64, samples, each at least one receptive field.
            masked: Shape ``(B, T)``, bool, True = replaced by the mask vector; T fast frames of the longest utterance.
            num_layers: Stop after this many layers; None runs all.

        Returns:
            Hidden states 0 to ``num_layers`` at the fast rate, packed, and ``coarse``, the output of the middle block,
            where it was computed whole. The states behind the middle and the last block include what is added there.

        Raises:
            ShapeError: Shapes disagree, or an utterance is shorter than a frame.
            ConfigError: ``num_layers`` is more than the model has.
        """
        stop = checked_depth(num_layers, self.num_layers)
        first, middle, last = self.config.block_layers
        features, embedded = self.embed(waveform, waveform_lengths, masked)
        states: list[Packed] = list(self.encoder(embedded, min(stop, first)))
        coarse = None
        if stop > first:
            encoded, slow = states[-1], self.downsampling(states[-1])
            coarse_states = _residual(self.middle(slow, min(stop - first, middle))[1:], slow, middle)
            states += [_repeated(state, self.config.rate_ratio, encoded.lengths) for state in coarse_states]
            coarse = coarse_states[-1] if len(coarse_states) == middle else None
        if stop > first + middle:
            assert coarse is not None
            fast = cut(self.upsampling(coarse), encoded.lengths)
            states += _residual(self.decoder(fast, stop - first - middle)[1:], encoded, last)
        return EncoderOutput(
            hidden_states=tuple(states),
            features_penalty=features.values.float().square().sum(),
            feature_count=features.values.numel(),
            coarse=coarse,
        )


def _residual(states: tuple[Packed, ...], added: Packed, layers: int) -> list[Packed]:
    """Outputs of a block, the last of its ``layers`` with ``added`` on top."""
    if len(states) < layers:
        return list(states)
    return [*states[:-1], states[-1].with_values(states[-1].values + added.values)]


def _repeated(slow: Packed, ratio: int, lengths: tuple[int, ...]) -> Packed:
    repeated = slow.values.repeat_interleave(ratio, dim=0)
    return cut(Packed(repeated, tuple(ratio * length for length in slow.lengths)), lengths)


def to_config(config: MrHubertConfig) -> dict[str, Any]:
    """The ``config.json`` that :func:`from_config` reads."""
    return waveform_encoder.to_transformers(config, "MrHubert")


def from_config(values: dict[str, Any], preprocessor: dict[str, Any]) -> MrHubertConfig:
    """Read a ``config.json`` of model type ``mr-hubert`` and its ``preprocessor_config.json``.

    Raises:
        ConfigError: See :func:`allophone.models.waveform_encoder.from_transformers`.
    """
    return waveform_encoder.from_transformers(MrHubertConfig, values, preprocessor)
