"""The frames of a corpus, shard by shard: what an engine runs on any machine that sees the corpus.

Shape letters: S samples, T frames, D dim. The encoder and the voices travel once a machine, utterances by their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.engine import Engine, Shard, Shared, cut
from allophone.frames import FrameClock
from allophone.models.build import Encoder
from allophone.nn.codebook import FrontEnd, Normalization
from allophone.units.extract import FrameExtractor, Moments, VoiceNormalizer, utterance_hash

SHARD_UTTERANCES = 64
"""Utterances of a shard. Fixed: it decides which utterances an encoder sees together, and how sums are rounded."""

UtteranceShard = Shard[Utterance]


@dataclass(frozen=True, slots=True)
class ShardFrames:
    """Makes the frames of the utterances of a shard."""

    corpus: Corpus
    """Where the sound files lie; without rows."""
    front_end: FrontEnd
    encoder: Shared[Encoder] | None
    layer: int | None
    normalization: Normalization = "none"
    voices: Shared[dict[str, Moments]] | None = None
    """By speaker, for ``voice``; see :func:`listen`."""

    def __call__(self, shard: UtteranceShard) -> Iterator[Tensor]:
        """Frames ``(T, D)`` of each utterance, float32, in order."""
        for _, frames in self.named(shard):
            yield frames

    def named(self, shard: UtteranceShard) -> Iterator[tuple[str, Tensor]]:
        """(utterance id, frames ``(T, D)``) pairs, standardized by voice where that is asked for.

        Raises:
            AudioError: A sound file cannot be read, or an utterance is shorter than one frame.
        """
        normalize = None
        if self.normalization == "voice":
            known = {} if self.voices is None else self.voices.get()
            normalize = VoiceNormalizer({row.id: row.speaker for row in shard.items}, known)
        for name, frames in self.raw(self.waveforms(shard)):
            yield name, frames if normalize is None else normalize(name, frames)

    def raw(self, waveforms: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """(utterance id, frames ``(T, D)``) pairs as the front end makes them."""
        encoder = None if self.encoder is None else self.encoder.get()
        return FrameExtractor(self.front_end, encoder, self.layer).frames(waveforms)

    def waveforms(self, shard: UtteranceShard) -> Iterator[tuple[str, Tensor]]:
        """(utterance id, waveform ``(S,)``) pairs."""
        return ((row.id, self.corpus.audio(row)) for row in shard.items)


@dataclass(frozen=True, slots=True)
class _Listen:
    """What has to be known of a shard before its frames are clustered or labelled."""

    frames: ShardFrames
    clock: FrameClock

    def __call__(self, shard: UtteranceShard) -> tuple[int, int, list[tuple[str, Moments]]]:
        """Hash of the utterances, their frames, and speaker and moments of each that has a speaker."""
        total, count, moments = 0, 0, []
        speakers = {row.id: row.speaker for row in shard.items}

        def hashed() -> Iterator[tuple[str, Tensor]]:
            nonlocal total, count
            for name, waveform in self.frames.waveforms(shard):
                total += utterance_hash(name, waveform)
                count += self.clock.count(len(waveform))
                yield name, waveform

        if self.frames.normalization == "none" or not any(speakers.values()):
            for _ in hashed():
                pass
            return total, count, []
        for name, frames in self.frames.raw(hashed()):
            if speaker := speakers[name]:
                moments.append((speaker, Moments().add(frames)))
        return total, count, moments


def shards_of(rows: Sequence[Utterance]) -> tuple[UtteranceShard, ...]:
    """Utterances in shards of :data:`SHARD_UTTERANCES`."""
    return cut(rows, SHARD_UTTERANCES)


def shard_frames(
    corpus: Corpus,
    engine: Engine,
    front_end: FrontEnd,
    encoder: Encoder | None,
    layer: int | None,
    normalization: Normalization,
) -> ShardFrames:
    """How each shard of a corpus becomes frames; the voices are not heard yet.

    Raises:
        ConfigError: Front end, encoder and layer do not fit together.
    """
    FrameExtractor(front_end, encoder, layer)
    files = Corpus(folder=corpus.folder.absolute(), utterances=())
    shared = None if encoder is None else engine.share(encoder)
    return ShardFrames(files, front_end, shared, layer, normalization)


@dataclass(frozen=True, slots=True)
class Heard:
    """What one pass over the audio of a corpus tells."""

    corpus_hash: str
    """Of the utterances, whatever their order; 16 hex digits."""
    starts: tuple[int, ...]
    """Frames before each shard."""
    voices: dict[str, Moments]
    """By speaker; empty unless frames are standardized by voice."""


def listen(engine: Engine, frames: ShardFrames, clock: FrameClock, shards: Sequence[UtteranceShard]) -> Heard:
    """Hear every utterance once.

    Raises:
        AudioError: A sound file cannot be read, or an utterance is shorter than one frame.
    """
    total, count, starts, voices = 0, 0, [], VoiceNormalizer(None)
    for part, frames_there, moments in engine.map(_Listen(frames, clock), shards):
        starts.append(count)
        total, count = (total + part) % 2**64, count + frames_there
        for speaker, found in moments:
            voices.add(speaker, found)
    return Heard(f"{total:016x}", tuple(starts), voices.moments)
