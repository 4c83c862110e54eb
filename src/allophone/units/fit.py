"""Raw audio to a codebook: features, sufficient statistics and centroids in one stream per pass, in bounded memory.

No feature file is written; what stays is one codebook. Source: Hsu et al. 2021, arXiv:2106.07447, section IV-B.
Deviations: Lloyd over all frames instead of mini-batches over a tenth; ``voice`` normalization is not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.engine import Engine, LocalEngine
from allophone.metrics.units import usage_entropy
from allophone.models.build import Encoder
from allophone.models.conversion import load_encoder, model_hash
from allophone.nn.clustering import KMeansResult, ShardedFrames, fit_kmeans
from allophone.nn.codebook import Codebook, CodebookInfo, FrontEnd, Normalization
from allophone.units.extract import (
    FrameCache,
    FrameExtractor,
    Speakers,
    Waveforms,
    utterance_hash,
)
from allophone.units.shards import listen, shard_frames, shards_of


def fit_codebook(
    waveforms: Waveforms,
    front_end: FrontEnd,
    num_units: int,
    *,
    seed: int,
    iterations: int = 20,
    encoder: Encoder | None = None,
    layer: int | None = None,
    normalization: Normalization = "none",
    speakers: Speakers | None = None,
    init_frames: int | None = None,
    cache: FrameCache | None = None,
    parent: str | None = None,
    start: Codebook | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Codebook:
    """Cluster the frames of a corpus.

    Args:
        waveforms: Starts the stream of (utterance id, waveform ``(S,)``, 16 kHz); called once a pass, and must give
            the same every time.
        front_end: ``mfcc39`` (100 Hz), ``fbank`` (80 log-mels, 100 Hz) or ``model``.
        num_units: K.
        seed: Of the clustering.
        iterations: At most so many updates over all frames.
        encoder: For ``model``.
        layer: For ``model``: hidden state to cluster, 0 = input of layer 1.
        normalization: ``voice`` standardizes every feature per speaker first, in one more pass.
        speakers: Speaker of each utterance id, for ``voice``; where it is None, or a name None or empty, each
            utterance is its own voice.
        init_frames: Frames in the reservoir of the clustering.
        cache: Keeps frames between passes and calls, within its budget.
        parent: Hash of a codebook that this one derives from; None = that of ``start``.
        start: Codebook of the same K and kind of frames whose centroids the clustering begins with, so that its ids
            keep their meaning as far as the audio allows; None begins anew.
        progress: Called with (passes done, passes at most).

    Returns:
        The codebook, with centroids on the CPU.

    Raises:
        ConfigError: Front end, encoder and layer do not fit together, or a number is out of range.
        AudioError: An utterance is shorter than one frame.
        DataError: Too few distinct frames, an utterance without an entry in ``speakers``, or a stream that changes.
    """
    extractor = FrameExtractor(front_end, encoder, layer, cache)
    voices = extractor.voices(waveforms, normalization, speakers)
    heard = Heard()

    def stream() -> Iterator[Tensor]:
        for _, frames in extractor.standardized(heard.listen(waveforms()), voices):
            yield frames

    result = fit_kmeans(
        stream,
        num_units,
        seed=seed,
        iterations=iterations,
        init_frames=init_frames,
        start=None if start is None else start.centroids,
        progress=progress,
    )
    parent = start.hash if parent is None and start is not None else parent
    return _codebook(result, extractor, seed, normalization, heard.hash, parent)


def _codebook(
    result: KMeansResult,
    extractor: FrameExtractor,
    seed: int,
    normalization: Normalization,
    corpus_hash: str,
    parent: str | None = None,
) -> Codebook:
    info = CodebookInfo(
        front_end=extractor.front_end,
        model_hash=None if extractor.encoder is None else model_hash(extractor.encoder),
        layer=extractor.layer,
        hop=extractor.clock.hop,
        receptive_field=extractor.clock.receptive_field,
        num_units=len(result.centroids),
        seed=seed,
        usage_entropy=usage_entropy(result.counts.cpu().numpy()),
        frames_fitted=result.frames,
        normalization=normalization,
        parent=parent,
        corpus_hash=corpus_hash,
    )
    return Codebook(result.centroids.cpu(), info)


def fit(
    corpus: Corpus | Path | str,
    *,
    model: str | Path | None = None,
    layer: int | None = None,
    num_units: int = 100,
    seed: int = 0,
    iterations: int = 20,
    normalization: Normalization = "none",
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Codebook:
    """Cluster the MFCCs of a corpus, or a layer of an encoder on it.

    Args:
        corpus: A corpus, or what ``Corpus.open`` takes. Utterances of the splits ``dev`` and ``test`` are left out.
        model: Folder or hub id of an encoder; None clusters MFCCs.
        layer: Of the encoder, 0 = input of layer 1; None takes the middle one, as HuBERT's second iteration.
        num_units: K.
        seed: Of the clustering.
        iterations: At most so many updates over all frames.
        normalization: ``voice`` standardizes every feature per speaker.
        engine: Where frames are made and statistics taken, shard by shard; None is this process. The codebook is the
            same with any.
        progress: Called with (passes done, passes at most).

    Raises:
        AllophoneError: What ``Corpus.open``, ``load_encoder`` and :func:`fit_codebook` raise.
    """
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    rows = [row for row in opened if row.split not in ("dev", "test")]
    encoder = None if model is None else load_encoder(model)
    if encoder is not None and layer is None:
        layer = encoder.num_layers // 2
    front_end: FrontEnd = "mfcc39" if encoder is None else "model"
    engine, shards = engine or LocalEngine(), shards_of(rows)
    frames = shard_frames(opened, engine, front_end, encoder, layer, normalization)
    extractor = FrameExtractor(front_end, encoder, layer)
    heard = listen(engine, frames, extractor.clock, shards)
    frames = replace(frames, voices=engine.share(heard.voices))
    stream = ShardedFrames(shards, heard.starts, frames, engine)
    result = fit_kmeans(stream, num_units, seed=seed, iterations=iterations, progress=progress)
    return _codebook(result, extractor, seed, normalization, heard.corpus_hash)


@dataclass(slots=True)
class Heard:
    """A hash of the utterances of the first pass, whatever their order."""

    total: int = 0
    complete: bool = False

    def listen(self, waveforms: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Pass the stream of waveforms ``(S,)`` on; its first time through, take its hash."""
        for name, waveform in waveforms:
            if not self.complete:
                self.total = (self.total + utterance_hash(name, waveform)) % 2**64
            yield name, waveform
        self.complete = True

    @property
    def hash(self) -> str:
        """16 hex digits."""
        return f"{self.total:016x}"
