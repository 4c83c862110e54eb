"""Disk to batches: decoding, a bounded cache in memory and one thread that works ahead.

The stream's state is that of its sampler, three integers; what the thread has prepared but nobody took is not part
of it. This file chooses nothing at random.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.batch import SECONDS_DRAWN, Captions, Labels, SpeechBatch, Texts
from allophone.data.collate import CollateConfig, Example, collate
from allophone.data.denoising import Pools, SoundPool, require_pools
from allophone.data.sampler import PlannedSampler, SamplerState
from allophone.distributed import rank, world_size
from allophone.errors import DataError
from allophone.frames import FrameClock

CACHE_BYTES = 2 * 1024**3
"""Decoded audio kept in memory; 2 GiB hold 18.6 hours."""

U_contra = TypeVar("U_contra", bound="Identified", contravariant=True)
U = TypeVar("U", bound="Identified")


class Identified(Protocol):
    """What the stream needs to know about an utterance."""

    @property
    def id(self) -> str:
        """Name, unique in the corpus."""
        ...


class WaveformSource(Protocol[U_contra]):
    """Where waveforms come from; a :class:`~allophone.data.corpus.Corpus` is one."""

    def audio(self, utterance: U_contra, /) -> Tensor:
        """Waveform of one utterance. Shape ``(S,)``, float32, 16 kHz."""
        ...


class UnitSource(Protocol):
    """Unit ids by utterance id; a ``dict`` is one."""

    def __getitem__(self, utterance_id: str, /) -> NDArray[np.integer]:
        """Units of one utterance. Shape ``(T,)`` or ``(T, labels of one frame)``, int."""
        ...


class CaptionSource(Protocol[U_contra]):
    """Where captions come from; a :class:`~allophone.data.captioning.Captioner` is one."""

    def draw(self, utterances: Sequence[U_contra], repeats: Sequence[int], seed: int, epoch: int, /) -> Captions:
        """One caption for each utterance of a batch: a pure function of the arguments."""
        ...


class TextSource(Protocol[U_contra]):
    """Where texts come from; :class:`~allophone.data.texts.TextDraws` is one."""

    def draw(self, utterances: Sequence[U_contra], repeats: Sequence[int], seed: int, epoch: int, /) -> Texts:
        """One text for each utterance of a batch: a pure function of the arguments."""
        ...


class WaveformCache(Generic[U]):
    """Decoded audio as 16-bit integers, up to a number of bytes; beyond that it is decoded again each time.

    The caller gets the 16-bit values on every call, also the first, so that what it sees does not depend on what
    was in memory.

    Args:
        source: Decodes.
        budget_bytes: Most bytes kept.
    """

    def __init__(self, source: WaveformSource[U], budget_bytes: int = CACHE_BYTES) -> None:
        self._source = source
        self._budget = budget_bytes
        self._kept: dict[str, NDArray[np.int16]] = {}
        self.used_bytes = 0

    def get(self, utterance: U) -> Tensor:
        """Waveform of one utterance. Shape ``(S,)``, float32 in [-1, 1), 16 kHz.

        Raises:
            DataError: It cannot be decoded; the message names it.
        """
        samples = self._kept.get(utterance.id)
        if samples is None:
            samples = _decode(self._source, utterance)
            if self.used_bytes + samples.nbytes <= self._budget:
                self._kept[utterance.id] = samples
                self.used_bytes += samples.nbytes
        return torch.from_numpy(samples.astype(np.float32) / 32768.0)


def _decode(source: WaveformSource[U], utterance: U) -> NDArray[np.int16]:
    try:
        waveform = source.audio(utterance)
    except (DataError, OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"Cannot decode utterance {utterance.id!r}: {error} "
            f"Import or audit the corpus again, so that files that went bad are quarantined."
        ) from error
    if not bool(torch.isfinite(waveform).all()):
        raise DataError(f"Utterance {utterance.id!r} holds NaN or infinite samples. Import the corpus again.")
    return (waveform * 32768.0).round().clamp(-32768, 32767).to(torch.int16).numpy()


class _OtherUtterances(Generic[U]):
    """The clean utterances that are laid over others, drawn as often as the sampler draws them."""

    def __init__(self, utterances: Sequence[U], cache: WaveformCache[U], sampler: PlannedSampler) -> None:
        self._utterances, self._cache, self._sampler = utterances, cache, sampler

    def other(self, utterance_id: str, generator: torch.Generator) -> tuple[str, Tensor] | None:
        row = self._sampler.any_row(generator)
        if self._utterances[row].id == utterance_id:
            row = (row + 1) % len(self._utterances)
        found = self._utterances[row]
        return None if found.id == utterance_id else (found.id, self._cache.get(found))


class BatchStream(Generic[U]):
    """An endless iterator over the batches of this rank, that can be asked where it stands and sent elsewhere.

    All ranks read one global sequence of batches: with W ranks, rank r takes batches r, r + W, r + 2W, ... So a run
    that is resumed with another number of ranks goes on with the batches that it has not seen.

    Args:
        source: Decodes; a corpus.
        utterances: The sampler's rows, in its order.
        units: Unit ids by utterance id, or None.
        sampler: Chooses the batches.
        clock: Frames of the encoder.
        config: Crop, perturbation and masks.
        cache_bytes: Decoded audio kept in memory.
        prefetch: Batches prepared ahead by a thread; 0 works without one.
        noise: What ``config.mix`` lays over clips besides other utterances of the corpus.
        responses: Measured rooms for ``config.reverb``; None = made-up ones.
        captions: Draws a text for each utterance, for contrast with text.
        classes: Numbers of the classes of each utterance by its id, for tuning.
        texts: Draws what each utterance is to be turned into.

    Raises:
        ConfigError: ``config.mix`` takes noise and there is none.
    """

    def __init__(
        self,
        source: WaveformSource[U],
        utterances: Sequence[U],
        units: UnitSource | None,
        sampler: PlannedSampler,
        clock: FrameClock,
        config: CollateConfig,
        *,
        cache_bytes: int = CACHE_BYTES,
        prefetch: int = 2,
        noise: SoundPool | None = None,
        responses: SoundPool | None = None,
        captions: CaptionSource[U] | None = None,
        classes: Mapping[str, Sequence[int]] | None = None,
        texts: TextSource[U] | None = None,
    ) -> None:
        self._utterances = utterances
        self._captions = captions
        self._classes = classes
        self._texts = texts
        self._cache = WaveformCache(source, cache_bytes)
        others = _OtherUtterances(utterances, self._cache, sampler)
        self._pools = Pools(utterances=others, noise=noise, responses=responses)
        require_pools(config.mix, self._pools)
        self._units = units
        self._sampler = sampler
        self._clock = clock
        self._config = config
        self._prefetch = prefetch
        self._state = sampler.state()
        self._worker: _Worker | None = None

    def __iter__(self) -> Iterator[SpeechBatch]:
        return self

    def __next__(self) -> SpeechBatch:
        """The batch at the present state; then moves on.

        Raises:
            DataError: An utterance of the batch cannot be decoded or its units do not fit.
        """
        if self._prefetch == 0:
            batch = self.batch(self._state)
        else:
            if self._worker is None:
                self._worker = _Worker(self, self._state, self._prefetch)
            batch = self._worker.take()
        self._state = self._sampler.advance(self._state, world_size())
        return batch

    def batch(self, state: SamplerState) -> SpeechBatch:
        """This rank's batch at ``state``: a pure function of it."""
        mine = self._sampler.advance(state, rank())
        draws = self._sampler.batch(mine.epoch, mine.position)
        chosen = [self._utterances[draw.row] for draw in draws]
        items = [
            Example(utterance.id, self._cache.get(utterance), draw.repeat)
            for utterance, draw in zip(chosen, draws, strict=True)
        ]
        units = None if self._units is None else [self._find_units(utterance.id) for utterance in chosen]
        batch = collate(items, units, self._clock, self._config, self._sampler.seed, mine.epoch, self._pools)
        heard = self._sampler.seconds_by_language(draws)
        sums = {**batch.sums, **{SECONDS_DRAWN + name: (heard[name], 0.0) for name in heard}}
        key = (chosen, [draw.repeat for draw in draws], self._sampler.seed, mine.epoch)
        captions = None if self._captions is None else self._captions.draw(*key)
        texts = None if self._texts is None else self._texts.draw(*key)
        labels = None if self._classes is None else self._labels(chosen, self._sampler.place(mine))
        return replace(batch, sums=sums, captions=captions, labels=labels, texts=texts).validate()

    def _labels(self, utterances: Sequence[U], place: int) -> Labels:
        assert self._classes is not None
        missing = [utterance.id for utterance in utterances if not self._classes.get(utterance.id)]
        if missing:
            raise DataError(f"Utterance {missing[0]!r} has no class to learn from. Leave such utterances out.")
        rows = [self._classes[utterance.id] for utterance in utterances]
        width = max(map(len, rows))
        return Labels(torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows]), place)

    def _find_units(self, utterance_id: str) -> NDArray[np.integer] | None:
        assert self._units is not None
        try:
            return self._units[utterance_id]
        except KeyError:
            return None

    def advance(self, state: SamplerState) -> SamplerState:
        """The state after the batches that all ranks take at ``state``."""
        return self._sampler.advance(state, world_size())

    def state(self) -> SamplerState:
        """Where the next batch comes from; the same on all ranks."""
        return self._state

    def seek(self, state: SamplerState) -> None:
        """Go on from ``state``.

        Raises:
            DataError: The state belongs to another seed.
        """
        self._state = self._sampler.advance(state, 0)
        self.close()

    def close(self) -> None:
        """Stop the thread; a later ``next`` starts a new one."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


class _Worker:
    """The thread that prepares the next batches of a stream, in order; errors come out where the batch would."""

    def __init__(self, stream: BatchStream[Any], state: SamplerState, depth: int) -> None:
        self._queue: queue.Queue[SpeechBatch | Exception] = queue.Queue(depth)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(stream, state), name="batches", daemon=True)
        self._thread.start()

    def _run(self, stream: BatchStream[Any], state: SamplerState) -> None:
        while not self._stopping.is_set():
            result: SpeechBatch | Exception
            try:
                result = stream.batch(state)
                state = stream.advance(state)
            except Exception as error:  # every error belongs to the caller of take()
                result = error
            self._put(result)
            if isinstance(result, Exception):
                return

    def _put(self, result: SpeechBatch | Exception) -> None:
        while not self._stopping.is_set():
            try:
                return self._queue.put(result, timeout=0.1)
            except queue.Full:
                continue

    def take(self) -> SpeechBatch:
        result = self._queue.get()
        if isinstance(result, Exception):
            self._queue.put(result)
            raise result
        return result

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
