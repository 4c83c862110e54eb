"""Frame sources, and the few ways in which every row of a table prepares its frames.

Shape legend: S samples, T frames, D dim, L layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from allophone.audio.features import kaldi_fbank, stacked_fbank
from allophone.errors import ConfigError, DataError, ShapeError
from allophone.evaluate.protocol import FrameSource
from allophone.frames import SAMPLE_RATE, FrameClock
from allophone.models.output import EncoderOutput

FBANK_RATE = 100.0
"""Filter-bank frames a second before stacking."""
DEVIATION_FLOOR = 1e-5
"""Added to standard deviations, so a constant dimension becomes zero and not noise blown up."""


class Encoder(Protocol):
    """What :class:`EncoderSource` needs of a model beyond being an ``nn.Module``."""

    clock: FrameClock
    num_layers: int

    def __call__(
        self, waveform: Tensor, waveform_lengths: Tensor, masked: Tensor | None = None, num_layers: int | None = None
    ) -> EncoderOutput:
        """Hidden states of a padded batch."""
        ...


class EncoderSource:
    """Hidden states of an encoder, in evaluation mode and without gradients.

    A random row is this class around an encoder with random weights.
    """

    def __init__(self, name: str, encoder: nn.Module, layers: Sequence[int] | str = "all") -> None:
        """Choose which hidden states to give.

        Args:
            name: Row label.
            encoder: A model with ``clock`` and ``num_layers`` as :class:`Encoder` says.
            layers: Indices of hidden states, 0 = input of layer 1; layers above the largest are not computed.

        Raises:
            ConfigError: A layer is outside 0 to ``encoder.num_layers``, or none is asked for.
        """
        depth = int(encoder.num_layers)  # type: ignore[arg-type]
        chosen = tuple(range(depth + 1)) if layers == "all" else tuple(layers)
        wrong = [layer for layer in chosen if not isinstance(layer, int) or not 0 <= layer <= depth]
        if wrong or not chosen:
            raise ConfigError(f"EncoderSource {name!r}: layers {layers!r}; expected 'all' or some of 0 to {depth}.")
        self.name = name
        self.encoder = encoder
        self.chosen: tuple[int, ...] = chosen  # type: ignore[assignment]
        self.layers = len(chosen)
        self.frame_rate = float(encoder.clock.rate)  # type: ignore[union-attr,arg-type]

    def extract(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Hidden states of each waveform.

        Args:
            waveforms: 16 kHz mono, shape ``(S,)`` each; encoded as one batch.

        Returns:
            One tensor of shape ``(layers, frames, dim)``, float32 on the CPU, per waveform.
        """
        encoder = self.encoder
        device = next(encoder.parameters()).device
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        padded = nn.utils.rnn.pad_sequence([waveform.float() for waveform in waveforms], batch_first=True)
        was_training = encoder.training
        encoder.eval()
        try:
            with torch.inference_mode():
                output = encoder(padded.to(device), lengths.to(device), num_layers=max(self.chosen))
        finally:
            encoder.train(was_training)
        states = [output.hidden_states[layer] for layer in self.chosen]
        stacked = torch.stack([state.values for state in states]).float().cpu().clone()
        return list(stacked.split(states[0].lengths, dim=1))


class FilterbankSource:
    """Log-mel energies stacked to an encoder's frame rate: the row that no learning has touched."""

    layers = 1

    def __init__(self, stack: int, name: str = "filter bank", *, normalize: bool = False) -> None:
        """Choose the frame.

        Args:
            stack: 10-ms frames that make one frame (4 = 40 ms, 320 dimensions).
            name: Row label.
            normalize: Give each mel zero mean and unit variance over the utterance, as the log-mel encoders see it.
                Its mean over frames then says nothing, so a fair row of a mean-pooled score leaves it off.
        """
        if stack < 1:
            raise ConfigError(f"FilterbankSource: stack is {stack}; expected at least 1 frame.")
        self.name = name
        self.stack = stack
        self.normalize = normalize
        self.frame_rate = FBANK_RATE / stack

    @classmethod
    def near(cls, frame_rate: float) -> FilterbankSource:
        """The row beside an encoder of so many frames a second, with about as many."""
        return cls(max(1, round(FBANK_RATE / frame_rate)))

    def extract(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Stacked log-mels of each waveform.

        Args:
            waveforms: 16 kHz mono, shape ``(S,)`` each.

        Returns:
            One tensor of shape ``(1, frames, 80 * stack)``, float32, per waveform.
        """
        return [self._stacked(waveform)[None].float().cpu() for waveform in waveforms]

    def _stacked(self, waveform: Tensor) -> Tensor:
        if self.normalize:
            return stacked_fbank(waveform, self.stack)
        mels = kaldi_fbank(waveform)
        frames = len(mels) // self.stack
        return mels[: frames * self.stack].reshape(frames, -1)


def extract_all(
    source: FrameSource,
    waveforms: Sequence[Tensor],
    progress: Callable[[int, int], None] | None = None,
    *,
    batch_seconds: float = 60.0,
) -> list[Tensor]:
    """Frames of many waveforms, extracted in batches of similar length and given back in the order asked.

    Args:
        source: What extracts.
        waveforms: 16 kHz mono, shape ``(S,)`` each.
        progress: Called with (waveforms done, all) after each batch.
        batch_seconds: Padded audio in one batch; a longer waveform is a batch of its own.

    Returns:
        One tensor of shape ``(layers, frames, dim)`` per waveform.
    """
    order = sorted(range(len(waveforms)), key=lambda index: len(waveforms[index]))
    frames: list[Tensor] = [torch.empty(0)] * len(waveforms)
    batch: list[int] = []
    done = 0
    for position, index in enumerate(order):
        batch.append(index)
        following = len(waveforms[order[position + 1]]) if position + 1 < len(order) else None
        if following is not None and following * (len(batch) + 1) <= batch_seconds * SAMPLE_RATE:
            continue
        for member, extracted in zip(batch, source.extract([waveforms[i] for i in batch]), strict=True):
            frames[member] = extracted.clone()
        done += len(batch)
        batch = []
        if progress is not None:
            progress(done, len(waveforms))
    return frames


class RememberingSource:
    """A source that keeps the mean over time of all it has extracted, for scores that need no more than that.

    Kept by the content of a waveform: a recording whose bandwidth was limited is another one. A mean takes some
    kilobytes, frames some hundred times as many.
    """

    def __init__(self, source: FrameSource) -> None:
        self.source = source
        self.name, self.layers, self.frame_rate = source.name, source.layers, source.frame_rate
        self.means: dict[bytes, Tensor] = {}

    def extract(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """What the source itself gives: ``(layers, frames, dim)`` of each waveform ``(S,)``."""
        frames = self.source.extract(waveforms)
        for waveform, given in zip(waveforms, frames, strict=True):
            self.means[_content(waveform)] = given.mean(dim=1)
        return frames


def mean_of_each(source: FrameSource, waveforms: Sequence[Tensor]) -> Tensor:
    """Mean over time of every layer, of each waveform; a :class:`RememberingSource` extracts only what is new to it.

    Args:
        source: What extracts.
        waveforms: 16 kHz mono, shape ``(S,)`` each.

    Returns:
        Shape ``(waveforms, layers, dim)``.
    """
    if not isinstance(source, RememberingSource):
        return mean_pool(extract_all(source, waveforms))
    extract_all(source, [waveform for waveform in waveforms if _content(waveform) not in source.means])
    return torch.stack([source.means[_content(waveform)] for waveform in waveforms])


def _content(waveform: Tensor) -> bytes:
    return hashlib.blake2b(waveform.float().cpu().numpy().tobytes(), digest_size=16).digest()


def standardize_by_voice(frames: Sequence[Tensor], speakers: Sequence[Hashable]) -> list[Tensor]:
    """Give every dimension zero mean and unit variance over all frames of one speaker, each layer by itself.

    Removes much of what a voice and a microphone add; every row of a table gets the same treatment.

    Args:
        frames: One tensor of shape ``(T, D)`` or ``(L, T, D)`` per utterance.
        speakers: The speaker of each utterance.

    Returns:
        Tensors of the same shapes.

    Raises:
        DataError: Not one speaker an utterance.
    """
    if len(frames) != len(speakers):
        raise DataError(
            f"standardize_by_voice: {len(frames)} utterances, {len(speakers)} speakers; one each is needed."
        )
    members: dict[Hashable, list[int]] = {}
    for index, speaker in enumerate(speakers):
        members.setdefault(speaker, []).append(index)
    result: list[Tensor] = [torch.empty(0)] * len(frames)
    for indices in members.values():
        mean, deviation = frame_statistics([frames[index] for index in indices])
        for index in indices:
            result[index] = (frames[index] - mean) / deviation
    return result


def frame_statistics(frames: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension over all frames, in one pass each and without a copy.

    Args:
        frames: Tensors of shape ``(T, D)`` or ``(L, T, D)``.

    Returns:
        Mean and deviation (floored), each of shape ``(1, D)`` or ``(L, 1, D)``, float32.
    """
    count = sum(item.shape[-2] for item in frames)
    if count == 0:
        raise ShapeError(f"frame_statistics: {len(frames)} utterances without a single frame.")
    mean = sum(item.sum(dim=-2, keepdim=True, dtype=torch.float64) for item in frames) / count
    assert isinstance(mean, Tensor)
    centered = mean.float()
    square = sum((item - centered).square().sum(dim=-2, keepdim=True, dtype=torch.float64) for item in frames) / count
    assert isinstance(square, Tensor)
    return centered, (square.sqrt() + DEVIATION_FLOOR).float()


def mean_pool(frames: Sequence[Tensor]) -> Tensor:
    """Mean of each utterance's frames. N tensors of shape ``(T, D)`` -> ``(N, D)``; ``(L, T, D)`` -> ``(N, L, D)``."""
    return torch.stack([item.mean(dim=-2) for item in frames])


def slice_means(frames: Tensor, slices: int = 24) -> Tensor:
    """Mean of each of ``slices`` equal parts of an utterance, whatever its length.

    A part that does not begin or end on a frame takes in the whole frame, so each has at least one.

    Args:
        frames: Shape ``(T, D)``.
        slices: Number of parts.

    Returns:
        Shape ``(slices, D)``.
    """
    if frames.ndim != 2 or len(frames) == 0:
        raise ShapeError(f"slice_means: frames are {tuple(frames.shape)}, expected (frames >= 1, dim).")
    return nn.functional.adaptive_avg_pool1d(frames.T[None], slices)[0].T.contiguous()
