"""Units to speech: the unit HiFi-GAN, a generator over embedded units with a duration predictor beside it.

Source: Polyak et al. 2021, arXiv:2104.00355; Kong et al. 2020, arXiv:2010.05646 (generator V1); Lee et al. 2022,
arXiv:2107.05604 (durations). Module and parameter names are those of ``transformers``' ``SeamlessM4TCodeHifiGan``.
Utterances are packed: each is convolved alone, surrounded by zeros, whatever stands beside it in the batch.
Shape letters: B utterances, T frames (one unit each), U units without repeats, N all frames of a batch end to end,
D dim, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from allophone.batch import Packed
from allophone.errors import ConfigError, DataError, ShapeError
from allophone.nn.attention import by_length

PITCH_DIM = 2
"""Values of a frame's pitch: octaves above a reference where it is voiced, and whether it is."""
GEOMETRIES = {320: ((5, 4, 4, 2, 2), (11, 8, 8, 4, 4)), 640: ((5, 4, 4, 4, 2), (11, 8, 8, 8, 4))}
"""Hop in samples to upsampling rates and kernels: 20 ms as published, and 40 ms with one rate doubled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitVocoderConfig:
    """Sizes of a unit vocoder; the defaults are those of Polyak et al. for 20-ms units at 16 kHz."""

    num_units: int
    """K, rows of the unit table."""
    unit_dim: int = 128
    """Width of a unit's embedding, and of the duration predictor."""
    num_speakers: int = 1
    """Rows of the speaker table."""
    speaker_dim: int = 0
    """Width of a speaker's embedding (Polyak et al. 128 where there are several); 0 = not conditioned on speakers."""
    num_languages: int = 1
    """Rows of the language table."""
    language_dim: int = 0
    """Width of a language's embedding (Seamless 256); 0 = not conditioned on languages."""
    pitch: bool = False
    """Conditioned on F0 as well; ``transformers`` has no such vocoder, so it reads only folders without."""
    channels: int = 512
    """Channels before the first upsampling; each upsampling halves them."""
    upsample_rates: tuple[int, ...] = (5, 4, 4, 2, 2)
    """Factors of the upsampling layers; their product is the hop in samples."""
    upsample_kernels: tuple[int, ...] = (11, 8, 8, 4, 4)
    """Kernels of the upsampling layers, each its rate plus an even number."""
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    """Kernels of the residual blocks that are averaged after each upsampling, all odd."""
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    """Dilations of each residual block."""
    leaky_slope: float = 0.1
    """Slope of the leaky ReLU below zero."""
    duration_kernel: int = 3
    """Kernel of the duration predictor, odd, in units."""
    duration_dropout: float = 0.5
    """Dropout in the duration predictor."""

    def __post_init__(self) -> None:
        counts = (self.num_units, self.unit_dim, self.num_speakers, self.num_languages)
        if min(counts) < 1 or min(self.speaker_dim, self.language_dim) < 0:
            raise ConfigError(f"A unit vocoder needs positive table sizes and dims of at least 0; got {self}.")
        if len(self.upsample_rates) != len(self.upsample_kernels) or not self.upsample_rates:
            raise ConfigError(
                f"Upsampling rates {self.upsample_rates} and kernels {self.upsample_kernels} differ in number."
            )
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernels, strict=True):
            if rate < 1 or kernel < rate or (kernel - rate) % 2:
                raise ConfigError(
                    f"Upsampling rate {rate} with kernel {kernel}: expected a kernel of the rate plus an even number, "
                    f"or a frame would not be a whole number of samples. Use kernel {2 * rate + rate % 2}."
                )
        if self.channels % 2 ** len(self.upsample_rates):
            raise ConfigError(
                f"channels {self.channels} cannot be halved {len(self.upsample_rates)} times; use a multiple of "
                f"{2 ** len(self.upsample_rates)}."
            )
        kernels = (*self.resblock_kernels, self.duration_kernel)
        if len(self.resblock_kernels) != len(self.resblock_dilations) or any(kernel % 2 == 0 for kernel in kernels):
            raise ConfigError(
                f"Residual blocks need an odd kernel and a tuple of dilations each, durations an odd kernel; got "
                f"{self.resblock_kernels}, {self.resblock_dilations}, {self.duration_kernel}."
            )

    @property
    def hop(self) -> int:
        """Samples of one unit."""
        return math.prod(self.upsample_rates)

    @property
    def input_dim(self) -> int:
        """Width of what enters the generator."""
        return self.language_dim + self.unit_dim + self.speaker_dim + PITCH_DIM * self.pitch

    @property
    def context(self) -> int:
        """Units on each side of a unit that can change its samples, at most; the duration predictor not counted."""
        widest = max(
            sum((kernel - 1) * (dilation + 1) // 2 for dilation in dilations)
            for kernel, dilations in zip(self.resblock_kernels, self.resblock_dilations, strict=True)
        )
        units, samples = 3.0, 1
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernels, strict=True):
            units += (kernel + rate) / 2 / (samples * rate)
            samples *= rate
            units += widest / samples
        return math.ceil(units + 3 / samples)


def geometry(hop: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Upsampling rates and kernels for units that are ``hop`` samples apart.

    Raises:
        ConfigError: No geometry for that hop is known here.
    """
    if hop not in GEOMETRIES:
        raise ConfigError(
            f"No vocoder geometry for units {hop} samples apart; known: {sorted(GEOMETRIES)}. Make a UnitVocoderConfig "
            "with upsample_rates of that product."
        )
    return GEOMETRIES[hop]


def pack_units(units: Sequence[Tensor]) -> Packed:
    """Units of several utterances, each of shape ``(T,)``, end to end: values of shape ``(N,)``, int64."""
    return Packed(torch.cat(list(units)), tuple(len(row) for row in units))


def without_repeats(units: Packed) -> tuple[Packed, Tensor]:
    """Each run of one unit made one.

    Args:
        units: Values of shape ``(N,)``, int64.

    Returns:
        The runs' units, packed, shape ``(U,)``, and how many frames each run lasts, shape ``(U,)``, int64.
    """
    runs = [torch.unique_consecutive(row, return_counts=True) for row in units.split()]
    return pack_units([run[0] for run in runs]), torch.cat([run[1] for run in runs])


class ResidualBlock(nn.Module):
    """Pairs of convolutions, the first of each pair dilated, each pair added to its input."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(B, channels, S)`` to the same shape."""
        for first, second in zip(self.convs1, self.convs2, strict=True):
            change = first(functional.leaky_relu(hidden, self.slope))
            hidden = hidden + second(functional.leaky_relu(change, self.slope))
        return hidden


class Generator(nn.Module):
    """Vectors at the unit rate to a waveform: upsampling, after each of which residual blocks are averaged."""

    def __init__(self, config: UnitVocoderConfig) -> None:
        super().__init__()
        self.slope, self.kernels = config.leaky_slope, len(config.resblock_kernels)
        widths = [config.channels // 2**level for level in range(len(config.upsample_rates) + 1)]
        self.conv_pre = nn.Conv1d(config.input_dim, config.channels, 7, padding=3)
        self.upsampler = nn.ModuleList(
            nn.ConvTranspose1d(wide, narrow, kernel, stride=rate, padding=(kernel - rate) // 2)
            for (wide, narrow), rate, kernel in zip(
                pairwise(widths), config.upsample_rates, config.upsample_kernels, strict=True
            )
        )
        self.resblocks = nn.ModuleList(
            ResidualBlock(width, kernel, dilations, config.leaky_slope)
            for width in widths[1:]
            for kernel, dilations in zip(config.resblock_kernels, config.resblock_dilations, strict=True)
        )
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3)
        for layer in self.convolutions():
            if layer is not self.conv_pre:  # as published
                nn.init.normal_(layer.weight, std=0.01)

    def convolutions(self) -> Iterator[nn.Conv1d | nn.ConvTranspose1d]:
        """Every convolution; all are weight-normalized in training."""
        return (module for module in self.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d))

    def forward(self, vectors: Tensor) -> Tensor:
        """``(B, T, D)`` to ``(B, T * hop)``, within [-1, 1]."""
        hidden = self.conv_pre(vectors.transpose(1, 2))
        for level, upsample in enumerate(self.upsampler):
            hidden = upsample(functional.leaky_relu(hidden, self.slope))
            blocks = [self.resblocks[level * self.kernels + number] for number in range(self.kernels)]
            mixed = blocks[0](hidden)
            for block in blocks[1:]:
                mixed = mixed + block(hidden)
            hidden = mixed / self.kernels
        # The last slope is PyTorch's default in every published HiFi-GAN, whatever the config says.
        return torch.tanh(self.conv_post(functional.leaky_relu(hidden))).squeeze(1)


class DurationPredictor(nn.Module):
    """How long each unit lasts, from the units around it, as log(frames + 1)."""

    def __init__(self, dim: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(dim, dim, kernel, padding=(kernel - 1) // 2)
        self.ln1 = nn.LayerNorm(dim)
        self.conv2 = nn.Conv1d(dim, dim, kernel, padding=(kernel - 1) // 2)
        self.ln2 = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(B, U, D)`` to ``(B, U)``."""
        for convolution, norm in ((self.conv1, self.ln1), (self.conv2, self.ln2)):
            hidden = functional.relu(convolution(hidden.transpose(1, 2))).transpose(1, 2)
            hidden = self.dropout(norm(hidden))
        return cast(Tensor, self.proj(hidden).squeeze(2))


class UnitVocoder(nn.Module):
    """Units, optionally speaker, language and pitch, to a waveform at 16 kHz.

    A table of width 0 is kept, as ``transformers`` keeps it, and not trained.
    """

    def __init__(self, config: UnitVocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.dur_predictor = DurationPredictor(config.unit_dim, config.duration_kernel, config.duration_dropout)
        self.unit_embedding = nn.Embedding(config.num_units, config.unit_dim)
        self.speaker_embedding = nn.Embedding(config.num_speakers, config.speaker_dim)
        self.language_embedding = nn.Embedding(config.num_languages, config.language_dim)
        self.hifi_gan = Generator(config)
        for table in (self.speaker_embedding, self.language_embedding):
            table.requires_grad_(table.embedding_dim > 0)

    def forward(self, units: Packed, speakers: Tensor, languages: Tensor, pitch: Tensor | None = None) -> Packed:
        """Waveforms of units that stand one a frame.

        Args:
            units: Values of shape ``(N,)``, int64, 0 to K - 1.
            speakers: Row of the speaker table of each utterance. Shape ``(B,)``, int64.
            languages: The same for languages. Shape ``(B,)``, int64.
            pitch: Shape ``(N, 2)``, as :func:`~allophone.audio.pitch.pitch` has it; for a vocoder with ``pitch``.

        Returns:
            Samples of all utterances end to end, shape ``(N * hop,)``, float in [-1, 1].

        Raises:
            ShapeError: An utterance has no unit, or speakers, languages or pitch do not fit the units.
            DataError: A unit, speaker or language has no row in its table.
        """
        self._check(units, speakers, languages, pitch)
        repeats = torch.tensor(units.lengths, device=units.values.device)
        vectors = [
            self.language_embedding(languages).repeat_interleave(repeats, dim=0),
            self.unit_embedding(units.values),
            self.speaker_embedding(speakers).repeat_interleave(repeats, dim=0),
        ]
        if pitch is not None:
            vectors.append(pitch.to(vectors[1].dtype))
        return by_length(units.with_values(torch.cat(vectors, dim=-1)), self.hifi_gan)

    def log_durations(self, units: Packed) -> Tensor:
        """Predicted log(frames + 1) of units without repeats, values ``(U,)``. Shape ``(U,)``."""
        return by_length(units.with_values(self.unit_embedding(units.values)), self.dur_predictor).values

    def lengthened(self, units: Packed, durations: Tensor | None = None) -> Packed:
        """Units without repeats, each repeated as long as it lasts.

        Args:
            units: Values of shape ``(U,)``, int64.
            durations: Frames of each. Shape ``(U,)``, int64; None = as predicted, at least one frame.

        Returns:
            Values of shape ``(N,)``, as :meth:`forward` takes them.
        """
        if durations is None:
            durations = torch.expm1(self.log_durations(units)).round().long().clamp_min(1)
        rows = zip(units.split(), durations.split(list(units.lengths)), strict=True)  # type: ignore[no-untyped-call]
        return pack_units([row.repeat_interleave(lasts) for row, lasts in rows])

    def _check(self, units: Packed, speakers: Tensor, languages: Tensor, pitch: Tensor | None) -> None:
        size, config = len(units.lengths), self.config
        if min(units.lengths, default=0) < 1 or units.values.dim() != 1:
            raise ShapeError(f"units: expected (frames,) with at least one frame an utterance; got {units.lengths}.")
        if speakers.shape != (size,) or languages.shape != (size,):
            raise ShapeError(
                f"{size} utterances of units, but speakers {tuple(speakers.shape)} and languages "
                f"{tuple(languages.shape)}; expected ({size},) each."
            )
        wanted = (len(units.values), PITCH_DIM) if config.pitch else None
        if (None if pitch is None else tuple(pitch.shape)) != wanted:
            got = "none" if pitch is None else tuple(pitch.shape)
            raise ShapeError(f"pitch: expected {wanted or 'none, this vocoder is not conditioned on it'}; got {got}.")
        tables = {"unit": (units.values, config.num_units), "speaker": (speakers, config.num_speakers)}
        for name, (ids, rows) in {**tables, "language": (languages, config.num_languages)}.items():
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= rows:
                raise DataError(
                    f"{name} ids reach from {low} to {high}; this vocoder has 0 to {rows - 1}. Units of another "
                    "codebook need a vocoder of their own."
                )


def normalize_weights(vocoder: UnitVocoder) -> UnitVocoder:
    """Split every convolution of the generator into length and direction (weight norm), in place, for training."""
    for layer in list(vocoder.hifi_gan.convolutions()):
        parametrizations.weight_norm(layer)
    return vocoder


def folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name with every weight-normalized convolution, by either of torch's names, as a plain weight.

    This is not ``remove_parametrizations`` on a copy, because that would also undo the original: the two share the
    class that torch makes for a parametrized layer.
    """
    plain = dict(tensors)
    for lengths, directions in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        for name in [name for name in plain if name.endswith("." + lengths)]:
            stem = name.removesuffix(lengths)
            if stem + directions in plain:
                length, direction = plain.pop(name).float(), plain.pop(stem + directions).float()
                norm = direction.norm(dim=tuple(range(1, direction.dim())), keepdim=True)
                plain[stem + "weight"] = direction * (length / norm)
    return plain


def without_weight_norm(vocoder: UnitVocoder) -> UnitVocoder:
    """A copy with plain weights, in evaluation mode on the same device, that computes the same."""
    plain = UnitVocoder(vocoder.config).to(vocoder.unit_embedding.weight.device)
    plain.load_state_dict(folded(vocoder.state_dict()))
    return plain.eval()
