"""LASR: a Conformer over log-mels that are not normalized, with the parameter names of ``transformers``.

Two strided convolutions turn 10-ms log-mels into 40-ms frames. Nothing is standardized over the utterance and no norm
stands before the first weight, so a vowel of a one-second prompt looks as it does in a long recording. For the short
clips of the starter corpus that is worth more than anything else that was tried (docs/LOG.md).

Source: Gulati et al. 2020, arXiv:2005.08100 (Conformer); Su et al. 2021, arXiv:2104.09864 (rotary positions); layout
as in ``transformers`` (google/medasr). Shape letters: B batch, T frames, N real frames of a batch end to end, D dim,
H heads, E head dim.
Deviations: running statistics of the batch norms stay as they were loaded, so that an utterance never depends on its
batch mates; masked frames become zeros, inside the front end and behind it, for want of a published parameter.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allophone.audio.features import FILTER_BANK_CLOCK, lasr_fbank
from allophone.batch import Packed, packed_features
from allophone.errors import ConfigError
from allophone.frames import SAMPLE_RATE, FrameClock
from allophone.models.output import EncoderOutput, checked_depth, checked_lengths, flat_mask
from allophone.nn.attention import by_length, near_offsets, packed_attention
from allophone.nn.convolution import FixedBatchNorm, convolution_clock
from allophone.nn.products import Linear, product
from allophone.nn.rotary import frequencies, rotate, rotation

FBANK_MEAN, FBANK_SCALE = (-0.5, -9.0), 4.0
"""About the mean of the lowest and of the highest log-mel of speech, and the deviation of all; for fresh weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LasrConfig:
    """Sizes of a LASR encoder, named as in ``transformers``; defaults are google/medasr."""

    hidden_size: int = 512
    """Width D of every layer."""
    num_hidden_layers: int = 17
    """Conformer layers."""
    num_attention_heads: int = 8
    """Heads; twice their number must divide ``hidden_size``."""
    intermediate_size: int = 2048
    """Inner width of both feed-forward modules."""
    attention_bias: bool = False
    """Whether attention and feed-forward projections have biases."""
    convolution_bias: bool = False
    """Whether convolutions inside the layers have biases."""
    conv_kernel_size: int = 32
    """Frames that the depthwise convolution sees, centered."""
    subsampling_conv_channels: int = 256
    """Width behind the second strided convolution."""
    subsampling_conv_kernel_size: int = 5
    """Frames that each strided convolution sees; there is no padding."""
    subsampling_conv_stride: int = 2
    """Of each of the two."""
    num_mel_bins: int = 128
    """Log-mel bands between 125 and 7500 Hz."""
    dropout: float = 0.0
    """On the front end's output (google/medasr 0.1)."""
    activation_dropout: float = 0.0
    """Inside the feed-forward modules (google/medasr 0.1)."""
    attention_dropout: float = 0.0
    """On attention weights (google/medasr 0.1)."""
    layer_norm_eps: float = 1e-6
    """Added to variances."""
    feed_forward_residual_weights: tuple[float, float] = (1.5, 0.5)
    """Weights of what goes around a feed-forward module and of what comes out of it."""
    conv_residual_weights: tuple[float, float] = (2.0, 1.0)
    """The same for the convolution module."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies; smaller turns faster."""
    initializer_range: float = 0.02
    """Standard deviation of fresh linear weights."""
    local_attention_init: bool = False
    """Whether fresh heads start by looking at near frames; needs ``attention_bias``, no part of a trained model."""

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ConfigError(
                f"hidden_size {self.hidden_size} must be a multiple of twice num_attention_heads "
                f"{self.num_attention_heads}: rotary positions turn pairs of values."
            )
        if self.local_attention_init and not self.attention_bias:
            raise ConfigError("local_attention_init writes the biases of queries and keys; set attention_bias.")

    @property
    def clock(self) -> FrameClock:
        """Frames as the strided convolutions over log-mels cut them."""
        kernel, stride = self.subsampling_conv_kernel_size, self.subsampling_conv_stride
        mels = FILTER_BANK_CLOCK
        return convolution_clock((mels.receptive_field, kernel, kernel), (mels.hop, stride, stride))


class Subsampling(nn.Module):
    """Linear, two strided convolutions, Linear; ReLU between them."""

    def __init__(self, config: LasrConfig) -> None:
        super().__init__()
        width, channels = config.hidden_size, config.subsampling_conv_channels
        kernel, stride = config.subsampling_conv_kernel_size, config.subsampling_conv_stride
        self.dense_0 = nn.Linear(config.num_mel_bins, width)
        self.conv_0 = nn.Conv1d(width, width, kernel, stride)
        self.conv_1 = nn.Conv1d(width, channels, kernel, stride)
        self.dense_1 = Linear(channels, width)

    def forward(self, mels: Packed, visible: Tensor | None = None) -> Packed:
        """``(N10, mels)`` packed to ``(N, D)`` packed.

        Args:
            mels: Log-mels.
            visible: Shape ``(N10,)``, bool; False = a log-mel frame that is hidden. None hides nothing.
        """
        inner = F.relu(self.dense_0(mels.values))
        if visible is not None:
            inner = inner * visible[:, None]
        return by_length(mels.with_values(inner), self._convolve)

    def _convolve(self, inner: Tensor) -> Tensor:
        """``(B, T10, D)`` to ``(B, T, D)``."""
        hidden = F.relu(self.conv_0(inner.transpose(1, 2)))
        projected: Tensor = self.dense_1(F.relu(self.conv_1(hidden)).transpose(1, 2))
        return projected


class FeedForward(nn.Module):
    """Linear, swish, Linear."""

    def __init__(self, config: LasrConfig) -> None:
        super().__init__()
        self.linear1 = Linear(config.hidden_size, config.intermediate_size, bias=config.attention_bias)
        self.linear2 = Linear(config.intermediate_size, config.hidden_size, bias=config.attention_bias)
        self.dropout = nn.Dropout(config.activation_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(N, D)`` to ``(N, D)``."""
        output: Tensor = self.linear2(self.dropout(F.silu(self.linear1(hidden))))
        return output


class SelfAttention(nn.Module):
    """Multi-head attention with rotary positions."""

    def __init__(self, config: LasrConfig) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.attention_bias
        self.num_heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (Linear(width, width, bias=bias) for _ in range(4))

    def forward(self, hidden: Packed, turned: tuple[Tensor, Tensor]) -> Tensor:
        """``(N, D)`` packed to ``(N, D)``; frames attend within their own utterance only."""
        q, k, v = (
            layer(hidden.values).unflatten(-1, (self.num_heads, -1))
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        attended = packed_attention(rotate(q, turned), rotate(k, turned), v, hidden.lengths, dropout=dropout)
        output: Tensor = self.o_proj(attended.flatten(-2))
        return output


class ConvolutionModule(nn.Module):
    """Gated pointwise, centered depthwise, fixed norm, swish, pointwise."""

    def __init__(self, config: LasrConfig) -> None:
        super().__init__()
        width, kernel, bias = config.hidden_size, config.conv_kernel_size, config.convolution_bias
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=bias)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding="same", groups=width, bias=bias)
        self.norm = FixedBatchNorm(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=bias)

    def forward(self, hidden: Packed) -> Tensor:
        """``(N, D)`` packed to ``(N, D)``. Kernel-1 convolutions are matrix products over all frames at once."""
        gated = F.glu(_pointwise(self.pointwise_conv1, hidden.values), dim=-1)
        mixed = by_length(hidden.with_values(gated), self._depthwise).values
        return _pointwise(self.pointwise_conv2, F.silu(self.norm(mixed)))

    def _depthwise(self, gated: Tensor) -> Tensor:
        """``(B, T, D)`` to ``(B, T, D)``."""
        mixed: Tensor = self.depthwise_conv(gated.transpose(1, 2))
        return mixed.transpose(1, 2)


class EncoderBlock(nn.Module):
    """Feed-forward, attention, convolution, feed-forward, each behind its own norm, and a norm at the end."""

    def __init__(self, config: LasrConfig) -> None:
        super().__init__()

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=False)

        self.feed_forward1, self.feed_forward2 = FeedForward(config), FeedForward(config)
        self.self_attn, self.conv = SelfAttention(config), ConvolutionModule(config)
        self.norm_feed_forward1, self.norm_self_att, self.norm_conv = norm(), norm(), norm()
        self.norm_feed_forward2, self.norm_out = norm(), norm()
        self.around, self.through = config.feed_forward_residual_weights
        self.conv_around, self.conv_through = config.conv_residual_weights

    def forward(self, hidden: Packed, turned: tuple[Tensor, Tensor]) -> Packed:
        """``(N, D)`` packed to ``(N, D)`` packed."""
        values = hidden.values
        values = self.around * values + self.through * self.feed_forward1(self.norm_feed_forward1(values))
        values = values + self.self_attn(hidden.with_values(self.norm_self_att(values)), turned)
        mixed = self.conv(hidden.with_values(self.norm_conv(values)))
        values = self.conv_around * values + self.conv_through * mixed
        values = self.around * values + self.through * self.feed_forward2(self.norm_feed_forward2(values))
        return hidden.with_values(self.norm_out(values))


class Lasr(nn.Module):
    """The encoder: waveform to hidden states, whatever the other utterances of the batch are."""

    def __init__(self, config: LasrConfig) -> None:
        super().__init__()
        self.config = config
        self.clock = config.clock
        self.dim = config.hidden_size
        self.num_layers = config.num_hidden_layers
        self.subsampler = Subsampling(config)
        self.dropout = nn.Dropout(config.dropout)
        blocks = [EncoderBlock(config) for _ in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(blocks)
        self.out_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=False)
        self.apply(lambda module: _initialize(module, config.initializer_range))
        for number, block in enumerate(blocks if config.local_attention_init else ()):
            _make_local(block.self_attn, config.rope_theta, number)

    def features(self, waveform: Tensor, waveform_lengths: Tensor) -> Packed:
        """Log-mel frames of each utterance, computed on its real samples only.

        Args:
            waveform: Shape ``(batch, samples)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(batch,)``, int64, samples.

        Returns:
            Packed ``(N10, mels)``, 100 frames a second.
        """
        mels = self.config.num_mel_bins
        return packed_features(waveform, waveform_lengths, lambda samples: lasr_fbank(samples, mels))

    def _hidden_mels(self, features: Packed, masked: Tensor) -> Tensor:
        """Log-mels that no frame may see: those around the centers of the masked frames. Shape ``(N10,)``, bool.

        Zeros behind the front end alone would hide little: with the published kernels a frame sees nine of its
        neighbor's thirteen log-mels.
        """
        hop = self.clock.hop // FILTER_BANK_CLOCK.hop
        before = FILTER_BANK_CLOCK.count(self.clock.receptive_field) - hop
        spread = F.pad(masked.repeat_interleave(hop, dim=1), (before // 2, max(features.lengths)))
        return torch.cat([row[:length] for row, length in zip(spread, features.lengths, strict=True)])

    def forward(
        self,
        waveform: Tensor,
        waveform_lengths: Tensor,
        masked: Tensor | None = None,
        num_layers: int | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            waveform: Shape ``(batch, samples)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(batch,)``, int64, samples.
            masked: Shape ``(batch, frames)``, bool, True = hidden from every frame. None hides nothing.
            num_layers: Stop after this many layers; None runs all.

        Returns:
            Hidden states 0 to ``num_layers``, packed. The last of all is behind the final norm, as in
            ``transformers``.

        Raises:
            ConfigError: ``num_layers`` is negative or more than there are.
            ShapeError: Shapes disagree, or an utterance is shorter than one frame.
        """
        depth = checked_depth(num_layers, self.num_layers)
        checked_lengths(waveform, waveform_lengths, self.clock.receptive_field)
        with torch.autocast(waveform.device.type, enabled=False):
            features = self.features(waveform, waveform_lengths)
        if masked is None:
            hidden = self.subsampler(features)
        else:
            hidden = self.subsampler(features, ~self._hidden_mels(features, masked))
            hidden = hidden.with_values(hidden.values * ~flat_mask(masked, hidden.lengths)[:, None])
        size = self.dim // self.config.num_attention_heads
        turned = rotation(hidden.lengths, size, self.config.rope_theta, hidden.values.device)
        hidden = hidden.with_values(self.dropout(hidden.values))
        states = [hidden]
        for layer in self.layers[:depth]:
            hidden = layer(hidden, turned)
            states.append(hidden)
        if depth == self.num_layers:
            states[-1] = hidden.with_values(self.out_norm(hidden.values))
        return EncoderOutput(hidden_states=tuple(states))


def _pointwise(layer: nn.Conv1d, values: Tensor) -> Tensor:
    return product(values, layer.weight.squeeze(-1), layer.bias)


def _initialize(module: nn.Module, deviation: float) -> None:
    """Normal linears as ``transformers`` draws them; PyTorch's own for depthwise convolutions.

    Deviation: the front end standardizes log-mels and keeps their spread, so that the first layers do not drown them,
    and pointwise convolutions are drawn like the linears they are.
    """
    if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv1d) and module.kernel_size == (1,)):
        nn.init.normal_(module.weight, std=deviation)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Subsampling) and not module.dense_0.weight.is_meta:  # see models/shapes.py
        first = module.dense_0
        nn.init.normal_(first.weight, std=first.in_features**-0.5 / FBANK_SCALE)
        with torch.no_grad():
            # The device is named because transformers 5 lets torch.linspace forget the default one.
            mean = torch.linspace(*FBANK_MEAN, first.in_features, device=first.weight.device)
            first.bias.copy_(-first.weight @ mean)
        for parameter in (module.conv_0.weight, module.conv_1.weight, module.dense_1.weight):
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")


@torch.no_grad()
def _make_local(attention: SelfAttention, theta: float, number: int) -> None:
    """Let each head of a fresh layer look at one near offset: 1, 2, 4, ... frames to the left and to the right.

    Keys get one constant vector, queries the same turned by the offset, so that their product peaks there.
    """
    size = attention.q_proj.out_features // attention.num_heads
    per_frame = frequencies(size, theta)
    for head, offset in enumerate(near_offsets(attention.num_heads, number)):
        part = slice(head * size, (head + 1) * size)
        angles = per_frame * offset
        attention.q_proj.bias[part] = torch.cat([angles.cos(), angles.sin()])
        attention.k_proj.bias[part] = torch.cat([torch.ones(size // 2), torch.zeros(size // 2)])


def to_transformers(config: LasrConfig) -> dict[str, Any]:
    """The ``config.json`` that ``transformers.LasrEncoder`` reads."""
    values = asdict(config)
    values.pop("local_attention_init")
    theta = values.pop("rope_theta")
    return {
        "architectures": ["LasrEncoder"],
        "model_type": "lasr_encoder",
        **{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()},
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "layerdrop": 0.0,
        "dropout_positions": 0.0,
    }


def preprocessor_to_transformers(config: LasrConfig) -> dict[str, Any]:
    """The ``preprocessor_config.json`` that ``transformers.LasrFeatureExtractor`` reads."""
    return {
        "feature_extractor_type": "LasrFeatureExtractor",
        "feature_size": config.num_mel_bins,
        "hop_length": FILTER_BANK_CLOCK.hop,
        "n_fft": 512,
        "win_length": FILTER_BANK_CLOCK.receptive_field,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": SAMPLE_RATE,
    }


def from_transformers(values: dict[str, Any], preprocessor: dict[str, Any]) -> LasrConfig:
    """Read a ``config.json`` of model type ``lasr_encoder`` and its ``preprocessor_config.json``.

    Raises:
        ConfigError: They ask for a part that is not built here, or the two do not fit together.
    """
    rope = values.get("rope_parameters") or {}
    asked = {"hidden_act": values.get("hidden_act", "silu"), "rope_type": rope.get("rope_type", "default")}
    for key, supported in {"hidden_act": "silu", "rope_type": "default"}.items():
        if asked[key] != supported:
            raise ConfigError(f"lasr_encoder config: {key} is {asked[key]!r}; only {supported!r} is built here.")
    expected = {
        "feature_size": values.get("num_mel_bins", 128),
        "hop_length": FILTER_BANK_CLOCK.hop,
        "n_fft": 512,
        "win_length": FILTER_BANK_CLOCK.receptive_field,
        "sampling_rate": SAMPLE_RATE,
    }
    for key, wanted in expected.items():
        if preprocessor.get(key, wanted) != wanted:
            raise ConfigError(
                f"lasr_encoder: preprocessor_config.json says {key} {preprocessor[key]}, expected {wanted}. "
                "The two files do not belong together, or other log-mels were used that are not built here."
            )
    known = {name: values[name] for name in LasrConfig.__dataclass_fields__ if name in values}
    known |= {name: tuple(value) for name, value in known.items() if name.endswith("residual_weights")}
    return LasrConfig(**{**known, "rope_theta": float(rope.get("rope_theta", 10_000.0))})
