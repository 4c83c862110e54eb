"""Audio to units with a codebook, and units on disk.

Shape letters: S samples, T frames of an encoder, U units of an utterance, R labels of one frame.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.engine import Engine, LocalEngine
from allophone.errors import CheckpointError, DataError
from allophone.frames import FrameClock
from allophone.metrics.units import usage_entropy
from allophone.models.build import Encoder
from allophone.models.conversion import load_encoder, model_hash
from allophone.nn.clustering import assign
from allophone.nn.codebook import Codebook
from allophone.units.beside_frames import label_index
from allophone.units.extract import FrameCache, FrameExtractor, Speakers, Waveforms
from allophone.units.shards import ShardFrames, UtteranceShard, listen, shard_frames, shards_of

FORMAT = 2
METADATA_KEY = b"allophone.units"
COLLAPSED_ENTROPY = 0.02
"""Usage entropy (share of log K) under which units are refused: about 99 % of all frames in one unit."""
COLLAPSE_SECONDS = 10.0
"""Units of less audio than this are never called collapsed: it may be a pause."""
LABELLED_FRAMES = 8192
"""Frames that are labelled together; a longer utterance is alone."""


@dataclass(frozen=True, slots=True)
class Units(Mapping[str, Tensor]):
    """Units of many utterances, read as a mapping from utterance id to int64 ``(U,)``."""

    labels: dict[str, NDArray[np.integer]]
    """Unit ids by utterance id, each of shape ``(U,)``, in the smallest unsigned type that holds K."""
    codebook_hash: str
    """Of the codebook that they were made with."""
    clock: FrameClock
    """How the frames behind the units cut time."""
    num_units: int
    """K."""

    @property
    def unit_rate(self) -> float:
        """Units a second."""
        return self.clock.rate

    def __getitem__(self, utterance_id: str) -> Tensor:
        return torch.from_numpy(self.labels[utterance_id].astype(np.int64))

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> NDArray[np.int64]:
        """Frames of each unit over all utterances. Shape ``(K,)``."""
        total = np.zeros(self.num_units, dtype=np.int64)
        for labels in self.labels.values():
            total += np.bincount(labels, minlength=self.num_units)
        return total

    def check(self, codebook: Codebook | None = None) -> Units:
        """Return self, or refuse units that belong to another codebook or are collapsed.

        Raises:
            DataError: The hash of ``codebook`` is another one, an id is out of range, or nearly all frames have one id.
        """
        if codebook is not None and codebook.hash != self.codebook_hash:
            raise DataError(
                f"These units were made with codebook {self.codebook_hash}, but the codebook given is {codebook.hash} "
                f"({codebook.info.num_units} units from {codebook.info.front_end}). Ids of two codebooks have nothing "
                "in common; encode again with `allophone units encode`."
            )
        for name, labels in self.labels.items():
            if len(labels) and (int(labels.max()) >= self.num_units or int(labels.min()) < 0):
                raise DataError(f"Utterance {name!r} has unit {labels.max()}, expected 0 to {self.num_units - 1}.")
        counts = self.counts()
        if counts.sum() < COLLAPSE_SECONDS * self.unit_rate:
            return self
        entropy, most = usage_entropy(counts), int(counts.argmax())
        if entropy < COLLAPSED_ENTROPY:
            raise DataError(
                f"The units are collapsed: {100 * counts[most] / counts.sum():.1f} % of {counts.sum()} frames are unit "
                f"{most}, usage entropy {entropy:.3f} of 1. A model would learn them at once and learn nothing. Check "
                "that the codebook fits the front end and layer, and that the audio is not silent."
            )
        return self

    def aligned(
        self, frames: Mapping[str, int], clock: FrameClock, labels_per_frame: int = 1
    ) -> dict[str, NDArray[np.integer]]:
        """Units laid beside an encoder's frames, as the data loader takes them.

        Args:
            frames: Encoder frames of each utterance that is wanted.
            clock: How the encoder cuts time.
            labels_per_frame: R.

        Returns:
            Shape ``(T, R)`` by utterance id.

        Raises:
            DataError: An utterance has no units, or they disagree with its frames.
        """
        missing = [name for name in frames if name not in self.labels]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(frames)} utterances have no units, the first is {missing[0]!r}. The corpus "
                "has grown since; encode it again with `allophone units encode`."
            )
        rows = {}
        for name, count in frames.items():
            index = label_index(len(self.labels[name]), self.clock, clock, count, labels_per_frame, name)
            rows[name] = self.labels[name][index]
        return rows

    def save(self, path: Path | str) -> Path:
        """Write one Parquet file, whole or not at all.

        Returns:
            The path.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        described = {
            "format": FORMAT,
            "codebook_hash": self.codebook_hash,
            "hop": self.clock.hop,
            "receptive_field": self.clock.receptive_field,
            "num_units": self.num_units,
        }
        kind = pa.uint16() if self.num_units <= 2**16 else pa.uint32()
        table = pa.table(
            {"id": pa.array(list(self.labels), pa.string()), "units": pa.array(self.labels.values(), pa.list_(kind))}
        ).replace_schema_metadata({METADATA_KEY: json.dumps(described).encode()})
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        return path

    @staticmethod
    def load(path: Path | str, codebook: Codebook | None = None) -> Units:
        """Read what :meth:`save` wrote.

        Args:
            path: The Parquet file.
            codebook: Refuse the units if they were made with another one.

        Raises:
            CheckpointError: The file is missing, truncated or holds no units.
            DataError: The units belong to another codebook or are collapsed.
        """
        path = Path(path)
        table = _read(path, partial(pq.read_table, partitioning=None))
        described = _described(table.schema)
        if described.get("format") != FORMAT or table.column_names != ["id", "units"]:
            raise CheckpointError(
                f"{path}: columns {table.column_names}, format {described.get('format')}; expected units of format "
                f"{FORMAT} with the columns id and units."
            )
        lists = table["units"].combine_chunks()
        flat, offsets = lists.flatten().to_numpy(zero_copy_only=False), lists.offsets.to_numpy()
        pieces = np.split(flat, offsets[1:-1] - offsets[0]) if len(lists) else []
        labels = dict(zip(table["id"].to_pylist(), pieces, strict=True))
        if len(labels) != len(lists):
            raise CheckpointError(f"{path}: {len(lists)} rows but {len(labels)} utterance ids; an id stands twice.")
        clock = FrameClock(hop=described["hop"], receptive_field=described["receptive_field"])
        units = Units(labels, described["codebook_hash"], clock, described["num_units"])
        return units.check(codebook)


def described_units(path: Path) -> dict[str, Any]:
    """What a file of units says of them all: the codebook's hash, hop, ...; empty where it holds something else.

    Raises:
        CheckpointError: The file is missing, or no Parquet.
    """
    return _described(_read(path, pq.read_schema))


def _described(schema: pa.Schema) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    return described


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """What ``read`` finds in a Parquet file, or an error that says what to do."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Make it with `allophone units encode`.")
    try:
        return read(path)
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(f"{path}: truncated or not Parquet ({error}). Make it again by what wrote it.") from error


def encode_units(
    waveforms: Waveforms,
    codebook: Codebook,
    *,
    encoder: Encoder | None = None,
    speakers: Speakers | None = None,
    cache: FrameCache | None = None,
    progress: Callable[[int, int], None] | None = None,
    total: int = 0,
    may_collapse: bool = False,
) -> Units:
    """Units of every utterance of a stream.

    Args:
        waveforms: Starts the stream of (utterance id, waveform ``(S,)``, 16 kHz); called once, or twice for a codebook
            with ``voice`` normalization and known speakers.
        codebook: What the units are the numbers of.
        encoder: The one that the codebook was fitted on, for front end ``model``.
        speakers: Speaker of each utterance id, for ``voice``; statistics come from the speaker's utterances in this
            stream. None or an empty name: from the utterance itself.
        cache: Keeps frames between passes and calls, within its budget.
        progress: Called with (utterances done, ``total``).
        total: Utterances of the stream, for ``progress``.
        may_collapse: Nearly all frames may have one unit: nothing is trained on them.

    Returns:
        The units, keyed by utterance id.

    Raises:
        ConfigError: The codebook needs an encoder, or takes none.
        AudioError: An utterance is shorter than one frame.
        DataError: The encoder is another than the codebook's, an id occurs twice, or the units are collapsed.
    """
    info = codebook.info
    extractor = FrameExtractor(info.front_end, encoder, info.layer, cache)
    _require_same_model(encoder, codebook)
    normalized = extractor.standardized(waveforms(), extractor.voices(waveforms, info.normalization, speakers))
    units = _collected(_labelled(normalized, codebook.centroids), codebook, progress, total)
    return units if may_collapse else units.check()


def _require_same_model(encoder: Encoder | None, codebook: Codebook) -> None:
    if encoder is not None and (given := model_hash(encoder)) != codebook.info.model_hash:
        raise DataError(
            f"The codebook was fitted on model {codebook.info.model_hash}, the encoder given is {given}. Its frames "
            "lie elsewhere, so the units would mean nothing; use that model or fit a codebook on this one."
        )


def _labelled(
    frames: Iterable[tuple[str, Tensor]], centroids: Tensor
) -> Iterator[tuple[str, NDArray[np.unsignedinteger]]]:
    """Unit ids of each utterance, ``(U,)``, in the smallest type that holds K.

    Utterances are labelled some thousand frames at a time: their arrays are parts of one, without a heap of small ones.
    """
    waiting: list[tuple[str, Tensor]] = []
    held = 0
    for name, values in frames:
        if waiting and held + len(values) > LABELLED_FRAMES:
            yield from _labelled_together(waiting, centroids)
            waiting, held = [], 0
        waiting.append((name, values))
        held += len(values)
    if waiting:
        yield from _labelled_together(waiting, centroids)


def _labelled_together(
    utterances: list[tuple[str, Tensor]], centroids: Tensor
) -> Iterator[tuple[str, NDArray[np.unsignedinteger]]]:
    frames = torch.cat([values for _, values in utterances]) if len(utterances) > 1 else utterances[0][1]
    labels = assign(frames, centroids.to(frames.device)).cpu().numpy()
    small, start = labels.astype(np.min_scalar_type(len(centroids) - 1)), 0
    for name, values in utterances:
        yield name, small[start : start + len(values)]
        start += len(values)


def _collected(
    labelled: Iterable[tuple[str, NDArray[np.unsignedinteger]]],
    codebook: Codebook,
    progress: Callable[[int, int], None] | None,
    total: int,
) -> Units:
    labels: dict[str, NDArray[np.integer]] = {}
    for name, found in labelled:
        if name in labels:
            raise DataError(f"Utterance id {name!r} occurs twice in the stream; ids must be unique.")
        labels[name] = found
        if progress is not None:
            progress(len(labels), max(total, len(labels)))
    return Units(labels, codebook.hash, codebook.info.clock, codebook.info.num_units)


@dataclass(frozen=True, slots=True)
class _EncodeShard:
    """Units of one shard of a corpus."""

    frames: ShardFrames
    centroids: Tensor

    def __call__(self, shard: UtteranceShard) -> list[tuple[str, NDArray[np.unsignedinteger]]]:
        return list(_labelled(self.frames.named(shard), self.centroids))


def encode(
    corpus: Corpus | Path | str,
    codebook: Codebook | Path | str,
    *,
    model: str | Path | None = None,
    out: Path | str | None = None,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Units:
    """Units of every utterance of a corpus.

    Args:
        corpus: A corpus, or what ``Corpus.open`` takes.
        codebook: A codebook, or its folder.
        model: Folder or hub id of the encoder that the codebook was fitted on.
        out: Parquet file to write.
        engine: Where the work is done, shard by shard; None is this process. The units are the same with any.
        progress: Called with (utterances done, utterances in all).

    Raises:
        AllophoneError: What ``Corpus.open``, ``Codebook.load``, ``load_encoder`` and :func:`encode_units` raise.
    """
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    book = codebook if isinstance(codebook, Codebook) else Codebook.load(codebook)
    encoder, info = None if model is None else load_encoder(model), book.info
    engine, shards = engine or LocalEngine(), shards_of(opened.utterances)
    frames = shard_frames(opened, engine, info.front_end, encoder, info.layer, info.normalization)
    _require_same_model(encoder, book)
    if info.normalization == "voice":
        heard = listen(engine, frames, info.clock, shards)
        frames = replace(frames, voices=engine.share(heard.voices))
    parts = engine.map(_EncodeShard(frames, book.centroids), shards)
    units = _collected(itertools.chain.from_iterable(parts), book, progress, len(opened)).check()
    if out is not None:
        units.save(out)
    return units
