"""From a stream of waveforms to a stream of frames: the front ends of units, and normalization per voice.

Shape letters: S samples, T frames, D dim. Nothing is kept beyond one group of utterances, nothing touches the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from allophone.audio.features import FILTER_BANK_CLOCK, kaldi_fbank, mfcc39
from allophone.errors import AudioError, ConfigError, DataError
from allophone.frames import SAMPLE_RATE, FrameClock, samples_to_seconds
from allophone.models.build import Encoder
from allophone.nn.codebook import FrontEnd, Normalization

Waveforms = Callable[[], Iterable[tuple[str, Tensor]]]
"""Starts the stream of (utterance id, waveform of shape ``(S,)``, float32, 16 kHz) anew at every call."""

Speakers = Mapping[str, str | None]
"""Speaker of each utterance id; None or an empty name where nobody knows."""

GROUP_SECONDS = 60.0
"""Audio that an encoder sees as one batch; longer utterances are cut into pieces of at most so much."""
UTTERANCES_WAITING = 64
"""Utterances gathered before a cache that lacks them has them computed."""
DEVIATION_FLOOR = 1e-5
"""Added to standard deviations, so that a constant feature becomes 0."""


class FrameCache:
    """Frames of one extractor kept in memory between passes, up to a number of bytes; what exceeds it is made again.

    Args:
        budget_bytes: Most bytes kept; 2 GiB hold 20 hours of 256 values at 25 Hz.
    """

    def __init__(self, budget_bytes: int = 2**31) -> None:
        self._budget = budget_bytes
        self._kept: dict[str, Tensor] = {}
        self._owner: tuple[object, ...] | None = None
        self.used_bytes = 0

    def claim(self, *owner: object) -> None:
        """Bind the cache to what makes its frames.

        Raises:
            ConfigError: It holds frames of another front end, encoder or layer.
        """
        if self._owner is None:
            self._owner = owner
        elif any(a is not b and a != b for a, b in zip(self._owner, owner, strict=True)):
            raise ConfigError("A FrameCache serves one front end, encoder and layer; make another one for others.")

    def get(self, name: str) -> Tensor | None:
        """Frames ``(T, D)`` of an utterance, None where they are not kept."""
        return self._kept.get(name)

    def put(self, name: str, frames: Tensor) -> None:
        """Keep the frames ``(T, D)`` of an utterance if there is room."""
        size = frames.numel() * frames.element_size()
        if self.used_bytes + size <= self._budget:
            self._kept[name] = frames.clone()
            self.used_bytes += size


@dataclass(frozen=True, slots=True)
class FrameExtractor:
    """What turns waveforms into the frames that are clustered."""

    front_end: FrontEnd
    """``mfcc39`` and ``fbank`` (80 log-mels) have 100 frames a second, ``model`` those of its encoder."""
    encoder: Encoder | None = None
    """Needed for, and only for, ``model``."""
    layer: int | None = None
    """Hidden state to take, 0 = input of layer 1; layers above it are not computed."""
    cache: FrameCache | None = None
    """Keeps what was computed, for further passes over the same utterances."""

    def __post_init__(self) -> None:
        if self.cache is not None:
            self.cache.claim(self.front_end, self.encoder, self.layer)
        if self.front_end not in ("mfcc39", "fbank", "model"):
            raise ConfigError(f"Unknown front end '{self.front_end}'. Known: fbank, mfcc39, model.")
        if (self.front_end == "model") != (self.encoder is not None) or (self.encoder is None) != (self.layer is None):
            raise ConfigError(
                f"Front end '{self.front_end}' with {'an' if self.encoder is not None else 'no'} encoder and layer "
                f"{self.layer}: 'model' needs both an encoder and a layer, 'mfcc39' and 'fbank' take neither."
            )
        if self.encoder is not None and self.layer is not None:
            depth = self.encoder.num_layers
            if not 0 <= self.layer <= depth:
                raise ConfigError(f"Layer {self.layer} of an encoder with {depth} layers; expected 0 to {depth}.")

    @property
    def clock(self) -> FrameClock:
        """How the front end cuts time."""
        return FILTER_BANK_CLOCK if self.encoder is None else self.encoder.clock

    def frames(self, waveforms: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Frames of each utterance, in order.

        Args:
            waveforms: (utterance id, shape ``(S,)``) pairs.

        Yields:
            (utterance id, shape ``(T, D)`` float32 on the device of the encoder or of the waveform).

        Raises:
            AudioError: An utterance is shorter than one frame; the message names it.
        """
        if self.cache is None:
            yield from self._computed(waveforms)
            return
        waiting: list[tuple[str, Tensor]] = []
        for name, waveform in waveforms:
            kept = self.cache.get(name)
            if kept is None:
                waiting.append((name, waveform))
            if waiting and (kept is not None or len(waiting) == UTTERANCES_WAITING):
                yield from self._remembered(waiting)
                waiting = []
            if kept is not None:
                yield name, kept
        yield from self._remembered(waiting)

    def standardized(
        self, waveforms: Iterable[tuple[str, Tensor]], voices: VoiceNormalizer | None
    ) -> Iterator[tuple[str, Tensor]]:
        """Frames ``(T, D)`` of each utterance, standardized by voice; None leaves them as :meth:`frames` has them."""
        for name, frames in self.frames(waveforms):
            yield name, frames if voices is None else voices(name, frames)

    def voices(
        self, waveforms: Waveforms, normalization: Normalization, speakers: Speakers | None
    ) -> VoiceNormalizer | None:
        """What standardizes these utterances, gathered in a pass of its own where speakers are known, or None."""
        if normalization != "voice":
            return None
        voices = VoiceNormalizer(speakers)
        if voices.needs_gathering:
            voices.gather(self.frames(waveforms()))
        return voices

    def _remembered(self, waveforms: list[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        assert self.cache is not None
        for name, frames in self._computed(waveforms):
            self.cache.put(name, frames)
            yield name, frames

    def _computed(self, waveforms: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        if self.encoder is None:
            transform = mfcc39 if self.front_end == "mfcc39" else kaldi_fbank
            for name, waveform in waveforms:
                self._check(name, waveform)
                yield name, transform(waveform)
            return
        for group in _groups(waveforms):
            yield from self._encoded(group)

    def _encoded(self, group: list[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        pieces = [piece for name, waveform in group for piece in self._pieces(name, waveform)]
        encoder, layer = self.encoder, self.layer
        assert encoder is not None and layer is not None
        device = next(encoder.parameters()).device
        lengths = torch.tensor([len(piece) for _, piece in pieces], device=device)
        padded = pad_sequence([piece.float() for _, piece in pieces], batch_first=True).to(device)
        was_training = encoder.training
        encoder.eval()
        try:
            with torch.inference_mode():
                output = encoder(padded, lengths, num_layers=layer)
        finally:
            encoder.train(was_training)
        states = output.hidden_states[layer].split()
        position = 0
        for name, _ in group:
            end = position
            while end < len(pieces) and pieces[end][0] == name:
                end += 1
            yield name, torch.cat(states[position:end]).float()
            position = end

    def _pieces(self, name: str, waveform: Tensor) -> list[tuple[str, Tensor]]:
        """The whole, or pieces of about equal length that together have exactly its frames."""
        self._check(name, waveform)
        frames = self.clock.count(len(waveform))
        number = -(-frames // max(1, int(GROUP_SECONDS * self.clock.rate)))
        cuts = [frames * i // number for i in range(number)]
        ends = [self.clock.start(b) + self.clock.receptive_field - self.clock.hop for b in cuts[1:]]
        # The last piece keeps the samples behind its last frame: front ends that normalize over time hear them.
        return [(name, waveform[self.clock.start(a) : e]) for a, e in zip(cuts, [*ends, len(waveform)], strict=True)]

    def _check(self, name: str, waveform: Tensor) -> None:
        if waveform.ndim != 1 or self.clock.count(len(waveform)) == 0:
            raise AudioError(
                f"Utterance {name!r}: a waveform of shape {tuple(waveform.shape)} has no frame; expected (samples,) "
                f"with at least {self.clock.receptive_field} samples at {SAMPLE_RATE} Hz. Leave it out of the corpus."
            )


def _groups(waveforms: Iterable[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Consecutive utterances whose padded batch stays within ``GROUP_SECONDS``; a longer one is alone."""
    group: list[tuple[str, Tensor]] = []
    longest = 0
    for name, waveform in waveforms:
        longest_then = max(longest, waveform.shape[-1])
        repeated = any(name == other for other, _ in group)
        if group and (repeated or samples_to_seconds(longest_then) * (len(group) + 1) > GROUP_SECONDS):
            yield group
            group, longest_then = [], waveform.shape[-1]
        group.append((name, waveform))
        longest = longest_then
    if group:
        yield group


def utterance_hash(name: str, waveform: Tensor) -> int:
    """64 bits of an utterance's name and waveform ``(S,)``; their sum names a corpus, whatever its order."""
    digest = hashlib.blake2b(name.encode(), digest_size=8)
    digest.update(waveform.detach().cpu().contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "big")


@dataclass(slots=True)
class Moments:
    """Sums from which mean and deviation of every feature follow."""

    count: int = 0
    """Frames."""
    total: Tensor | None = None
    """Shape ``(D,)``, float64."""
    squares: Tensor | None = None
    """Shape ``(D,)``, float64."""

    def add(self, frames: Tensor) -> Moments:
        """Take in frames ``(T, D)``; returns self."""
        values = frames.double()
        return self.merge(Moments(len(frames), values.sum(0), values.square().sum(0)))

    def merge(self, other: Moments) -> Moments:
        """Take in the moments of other frames; returns self."""
        assert other.total is not None and other.squares is not None
        self.count += other.count
        self.total = other.total if self.total is None else self.total + other.total
        self.squares = other.squares if self.squares is None else self.squares + other.squares
        return self

    def standardize(self, frames: Tensor) -> Tensor:
        """Frames ``(T, D)`` with mean 0 and deviation 1 under these moments, float32."""
        assert self.total is not None and self.squares is not None
        mean = self.total / self.count
        deviation = (self.squares / self.count - mean.square()).clamp_min(0.0).sqrt()
        return ((frames.double() - mean) / (deviation + DEVIATION_FLOOR)).float()


class VoiceNormalizer:
    """Mean and deviation of every feature per speaker, gathered in one pass and forgotten with this object.

    An utterance without a speaker (no table, or None or an empty name in it) is a voice of its own.
    """

    def __init__(self, speakers: Speakers | None, moments: dict[str, Moments] | None = None) -> None:
        self._speakers = speakers
        self.moments: dict[str, Moments] = {} if moments is None else moments

    def gather(self, frames: Iterable[tuple[str, Tensor]]) -> None:
        """Take in the frames ``(T, D)`` of utterances that have a speaker.

        Raises:
            DataError: An utterance is not in the table of speakers.
        """
        for name, values in frames:
            speaker = self._speaker(name)
            if speaker:
                self.add(speaker, Moments().add(values))

    def add(self, speaker: str, moments: Moments) -> None:
        """Take in what somebody else has heard of a speaker."""
        self.moments.setdefault(speaker, Moments()).merge(moments)

    def __call__(self, name: str, frames: Tensor) -> Tensor:
        """Standardize the frames ``(T, D)`` of an utterance by its speaker, or by itself.

        Raises:
            DataError: The utterance is not in the table of speakers, or its speaker was not gathered.
        """
        speaker = self._speaker(name)
        if not speaker:
            return Moments().add(frames).standardize(frames)
        if speaker not in self.moments:
            raise DataError(f"Speaker {speaker!r} of utterance {name!r} did not occur in the first pass.")
        return self.moments[speaker].standardize(frames)

    @property
    def needs_gathering(self) -> bool:
        """Whether there are speakers to gather at all."""
        return self._speakers is not None and any(self._speakers.values())

    def _speaker(self, name: str) -> str:
        if self._speakers is None:
            return ""
        if name not in self._speakers:
            raise DataError(
                f"Utterance {name!r} is not in the table of speakers ({len(self._speakers)} entries). Give its "
                "speaker, or an empty name to standardize it by itself."
            )
        return self._speakers[name] or ""
