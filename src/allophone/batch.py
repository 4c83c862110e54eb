"""What travels between the disk, the models and the losses: tensors together with their lengths.

Shape letters: B batch, S samples, T frames, N all real frames of a batch laid end to end, D dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from allophone.errors import ShapeError

SECONDS_DRAWN = "seconds_drawn/"
"""Begins the names of the sums that hold seconds drawn of a language: ``seconds_drawn/fra_Latn``."""


def valid_positions(lengths: Tensor, size: int) -> Tensor:
    """Which positions of a padded tensor are real.

    Args:
        lengths: Real items per row. Shape ``(batch,)``, int64.
        size: Padded size of the second dimension.

    Returns:
        Bool, shape ``(batch, size)``, True = real.
    """
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


@dataclass(frozen=True, slots=True)
class Packed:
    """Frames of several utterances end to end, without padding."""

    values: Tensor
    """Shape ``(frames of all utterances, dim)``."""
    lengths: tuple[int, ...]
    """Frames of each utterance, in order; they add up to ``len(values)``."""

    def __post_init__(self) -> None:
        if sum(self.lengths) != len(self.values):
            raise ShapeError(
                f"Packed: {len(self.values)} rows, but lengths {self.lengths} add up to {sum(self.lengths)}."
            )

    def split(self) -> tuple[Tensor, ...]:
        """One view ``(frames, dim)`` per utterance."""
        return tuple(self.values.split(list(self.lengths)))  # type: ignore[no-untyped-call]

    def padded(self) -> Tensor:
        """Zero-padded copy. Shape ``(batch, longest, dim)``."""
        return torch.nn.utils.rnn.pad_sequence(list(self.split()), batch_first=True)

    def with_values(self, values: Tensor) -> Packed:
        """The same utterances with other vectors. ``values``: shape ``(frames of all utterances, any dim)``."""
        return replace(self, values=values)


def packed_features(waveform: Tensor, waveform_lengths: Tensor, transform: Callable[[Tensor], Tensor]) -> Packed:
    """Features of each utterance, computed on its real samples only.

    Args:
        waveform: Shape ``(batch, samples)``.
        waveform_lengths: Shape ``(batch,)``, int64, samples.
        transform: From ``(samples,)`` to ``(frames, dim)`` and, for utterances of equal length, the same with a leading
            batch.
    """
    lengths = waveform_lengths.tolist()
    if len(set(lengths)) == 1:
        frames = transform(waveform[:, : lengths[0]])
        return Packed(frames.flatten(0, 1), (frames.shape[1],) * len(lengths))
    parts = [transform(row[:length]) for row, length in zip(waveform, lengths, strict=True)]
    return Packed(torch.cat(parts), tuple(len(part) for part in parts))


@dataclass(frozen=True, slots=True)
class Captions:
    """One text for each utterance of a batch, and what makes a text true of an utterance, its own or not.

    A fact ("emotion is happy", "says 'bonjour'") has a number of its own. A text states one fact; whatever language
    and wording it has, it is true of every utterance that the fact is known of.
    """

    texts: tuple[str, ...]
    """The text drawn for each utterance."""
    stated: Tensor
    """Number of the fact that each text states. Shape ``(B,)``, int64, not negative."""
    known: Tensor
    """Numbers of all facts known of each utterance, its text's among them. Shape ``(B, F)``, int64; -1 = none."""

    def validate(self) -> Captions:
        """Return self, or raise ``ShapeError`` where sizes disagree or a text is not true of its own utterance."""
        batch = len(self.texts)
        if self.stated.shape != (batch,) or self.known.ndim != 2 or len(self.known) != batch:
            raise ShapeError(
                f"Captions: {batch} texts, but stated {tuple(self.stated.shape)} and known {tuple(self.known.shape)}; "
                f"expected ({batch},) and ({batch}, facts)."
            )
        wrong = ((self.known != self.stated[:, None]).all(dim=1) | (self.stated < 0)).nonzero()
        if len(wrong):
            raise ShapeError(
                f"Captions: row {int(wrong[0])} states fact {int(self.stated[wrong[0]])}, which is not among those "
                "known of its utterance. Add it to the row of `known`; numbers of facts are not negative."
            )
        return self

    def to(self, device: torch.device | str) -> Captions:
        """The same texts with their numbers on another device."""
        return Captions(self.texts, self.stated.to(device), self.known.to(device))


@dataclass(frozen=True, slots=True)
class Labels:
    """Classes of each utterance of a batch, and where in its stream the batch stands."""

    classes: Tensor
    """Numbers of the classes. Shape ``(B, F)``, int64, none twice in a row; the first of a row is one, -1 = no more."""
    place: int
    """Batches of all processes that came before this one, from the first of the run on."""

    def validate(self) -> Labels:
        """Return self, or raise ``ShapeError`` where the shape is another or an utterance has no class."""
        if self.classes.ndim != 2 or self.classes.shape[1] == 0 or bool((self.classes[:, 0] < 0).any()):
            raise ShapeError(
                f"Labels: classes are {tuple(self.classes.shape)}; expected (batch, classes of one), a class first in "
                "every row. Leave utterances without a class out."
            )
        return self

    def to(self, device: torch.device | str) -> Labels:
        """The same on another device."""
        return Labels(self.classes.to(device), self.place)


@dataclass(frozen=True, slots=True)
class Texts:
    """What each utterance of a batch says, in its own language or in another."""

    texts: tuple[str, ...]
    """One an utterance."""
    languages: tuple[str, ...]
    """The language of each text, ``fra_Latn``."""
    spoken: tuple[str, ...] | None = None
    """The language of each utterance; None = that of its text."""
    contents: tuple[str, ...] | None = None
    """Equal where utterances say the same: their group or, without one, their transcript; None = their texts."""

    def validate(self) -> Texts:
        """Return self, or raise ``ShapeError`` where there are not as many languages as texts."""
        if len(self.texts) != len(self.languages):
            raise ShapeError(f"Texts: {len(self.texts)} texts in {len(self.languages)} languages; expected one each.")
        if any(known is not None and len(known) != len(self.texts) for known in (self.spoken, self.contents)):
            raise ShapeError(f"Texts: {len(self.texts)} texts; expected a language spoken and a content for each.")
        return self


@dataclass(frozen=True, slots=True)
class SpeechBatch:
    """Cropped waveforms with what is known of them: units and masks, captions, labels or texts."""

    ids: tuple[str, ...]
    """Utterance ids, for messages."""
    waveform: Tensor
    """Shape ``(B, S)``, float32 in [-1, 1], 16 kHz, zero beyond each length."""
    waveform_lengths: Tensor
    """Shape ``(B,)``, int64, samples."""
    frame_lengths: Tensor
    """Shape ``(B,)``, int64, encoder frames; equals ``clock.count(waveform_lengths)``."""
    units: Tensor | None = None
    """Shape ``(B, T, labels_per_frame)``, int64 cluster ids of the *clean* audio; -1 beyond each length."""
    masked: Tensor | None = None
    """Shape ``(B, T)``, bool, True = hidden from the encoder; False beyond each length."""
    sums: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """For the journal, what was done to the clips: name to (sum, count)."""
    captions: Captions | None = None
    """For contrast with text: one text an utterance."""
    labels: Labels | None = None
    """For tuning: classes of each utterance."""
    texts: Texts | None = None
    """For distillation, translation and transcription: what is to be heard of each utterance."""

    def validate(self) -> SpeechBatch:
        """Return self, or raise ``ShapeError`` naming the field that disagrees with the others."""
        batch, samples = self.waveform.shape
        if len(self.ids) != batch or self.waveform_lengths.shape != (batch,) or self.frame_lengths.shape != (batch,):
            raise ShapeError(
                f"SpeechBatch: waveform has {batch} rows, but ids {len(self.ids)}, waveform_lengths "
                f"{tuple(self.waveform_lengths.shape)}, frame_lengths {tuple(self.frame_lengths.shape)}."
            )
        if int(self.waveform_lengths.max()) > samples:
            raise ShapeError(
                f"SpeechBatch: longest length {int(self.waveform_lengths.max())} exceeds {samples} samples."
            )
        frames = int(self.frame_lengths.max())
        for name in ("units", "masked"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape[:2] != (batch, frames):
                raise ShapeError(f"SpeechBatch: {name} is {tuple(tensor.shape)}, expected ({batch}, {frames}, ...).")
        if self.captions is not None and len(self.captions.validate().texts) != batch:
            raise ShapeError(f"SpeechBatch: {batch} utterances, but {len(self.captions.texts)} captions.")
        if self.labels is not None and len(self.labels.validate().classes) != batch:
            raise ShapeError(f"SpeechBatch: {batch} utterances, but {len(self.labels.classes)} rows of labels.")
        if self.texts is not None and len(self.texts.validate().texts) != batch:
            raise ShapeError(f"SpeechBatch: {batch} utterances, but {len(self.texts.texts)} texts.")
        return self

    def to(self, device: torch.device | str) -> SpeechBatch:
        """The same batch on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return SpeechBatch(
            ids=self.ids,
            waveform=self.waveform.to(device, non_blocking=True),
            waveform_lengths=self.waveform_lengths.to(device),
            frame_lengths=self.frame_lengths.to(device),
            units=move(self.units),
            masked=move(self.masked),
            sums=self.sums,
            captions=None if self.captions is None else self.captions.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            texts=self.texts,
        )
