"""Scores of a system on labelled utterances: both probes, a few-shot curve and the geometry, embeddings in memory.

Shape letters: N utterances of a part, M test utterances, L layers, D dim, S samples or seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.data.labelled import LabelledParts
from allophone.evaluate.embedding_probes import (
    NEIGHBORS,
    Embedded,
    Probed,
    few_shot_curve,
    learned_mixture,
    linear_probe,
    neighbor_probe,
)
from allophone.evaluate.protocol import FrameSource
from allophone.evaluate.sources import extract_all, mean_pool
from allophone.frames import SAMPLE_RATE
from allophone.metrics.classification import confusion
from allophone.metrics.geometry import Geometry, measure_geometry, standardized
from allophone.metrics.intervals import Interval, bootstrap, paired_bootstrap
from allophone.models.continuation import last_state
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import SpeechEmbedder

LINEAR = "linear"
READERS = (LINEAR, *(f"{k} nearest" for k in NEIGHBORS))
"""Columns of the table."""
FEW_SHOT_DRAWS = 5
"""Draws of examples behind each point of a few-shot curve."""
POOLED_TOGETHER = 64
"""Utterances whose frames of all layers are in memory at once."""
ENOUGH_GROUPS = 10
"""Speakers or contents of a test from which on intervals draw these."""
BATCH_SECONDS = 60.0
"""Padded audio that is embedded at once."""

Embed = Callable[[Corpus, Sequence[Tensor]], NDArray[np.float64]]
"""A part and its waveforms, each of shape ``(S,)``, to vectors ``(N, D)``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Heard:
    """The decoded parts."""

    parts: LabelledParts
    train: tuple[Tensor, ...]
    dev: tuple[Tensor, ...]
    test: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SystemScore:
    """One system with one seed."""

    hits: dict[str, NDArray[np.float64]]
    """Hits on test by reader, shape ``(M,)``."""
    dev_hits: dict[str, NDArray[np.float64]]
    """Hits on dev of the neighbors, by reader."""
    linear: Probed | None = None
    """The linear probe; None for chance."""
    geometry: dict[str, Geometry] | None = None
    """Of test embeddings ``raw`` and ``standardized``, and of dev embeddings as ``dev``."""
    few_shot: dict[int, NDArray[np.float64]] | None = None
    """Hits by number of shots, shape ``(draws, M)``."""
    embedded: tuple[Embedded, Embedded, Embedded] | None = None
    """Train, dev and test embeddings; None for chance."""


def embedder_of(speech: SpeechEmbedder, frozen: FrozenStates | None = None) -> Embed:
    """Vectors of a speech embedder; batches are of similar length, and no vector depends on its batch.

    Args:
        speech: The embedder, in evaluation mode.
        frozen: Its first layers, where their states may be known already.
    """
    device = next(speech.parameters()).device

    def vectors_of(ids: Sequence[str], waveform: Tensor, lengths: Tensor) -> Tensor:
        if frozen is None:
            found: Tensor = speech(waveform, lengths)
            return found
        (hidden,) = frozen(waveform, lengths, ids)
        return speech.pool((last_state(speech.encoder, hidden, frozen.layers[0]),))

    @torch.no_grad()
    def embed(part: Corpus, waveforms: Sequence[Tensor]) -> NDArray[np.float64]:
        names = [row.id for row in part]
        order = sorted(range(len(waveforms)), key=lambda index: len(waveforms[index]))
        vectors = torch.empty(len(waveforms), speech.dim)
        batch: list[int] = []
        for position, index in enumerate(order):
            batch.append(index)
            following = len(waveforms[order[position + 1]]) if position + 1 < len(order) else math.inf
            if following * (len(batch) + 1) > BATCH_SECONDS * SAMPLE_RATE:
                lengths = torch.tensor([len(waveforms[i]) for i in batch])
                padded = torch.nn.utils.rnn.pad_sequence([waveforms[i] for i in batch], batch_first=True)
                ids = [names[i] for i in batch]
                vectors[batch] = vectors_of(ids, padded.to(device), lengths.to(device)).float().cpu()
                batch = []
        return vectors.double().numpy()

    return embed


def pooled_layers(source: FrameSource, waveforms: Sequence[Tensor]) -> NDArray[np.float64]:
    """Means over the frames of every layer of a source; no more frames than a batch's are in memory.

    Args:
        source: Such as a filter bank, or all layers of an encoder.
        waveforms: Shape ``(S,)`` each.

    Returns:
        Shape ``(N, L, D)``.
    """
    order = sorted(range(len(waveforms)), key=lambda index: len(waveforms[index]))
    means: list[Tensor] = [torch.empty(0)] * len(order)
    for start in range(0, len(order), POOLED_TOGETHER):
        indices = order[start : start + POOLED_TOGETHER]
        batch = extract_all(source, [waveforms[index] for index in indices])
        for index, mean in zip(indices, mean_pool(batch), strict=True):
            means[index] = mean
    return torch.stack(means).double().numpy()


def pooled(source: FrameSource) -> Embed:
    """Means over the frames of a source of one layer."""
    return lambda _, waveforms: pooled_layers(source, waveforms)[:, 0]


def score_layers(source: FrameSource, heard: Heard, *, seed: int) -> dict[str, SystemScore]:
    """The layer of a frozen encoder whose neighbors are best on dev, and a learned mixture of all layers."""
    numbers = [heard.parts.numbers(part) for part in (heard.parts.train, heard.parts.dev, heard.parts.test)]
    states = [pooled_layers(source, waveforms) for waveforms in (heard.train, heard.dev, heard.test)]

    def of_layer(layer: int) -> tuple[Embedded, Embedded, Embedded]:
        parts = [Embedded.of(one[:, layer], ids) for one, ids in zip(states, numbers, strict=True)]
        return parts[0], parts[1], parts[2]

    on_dev = [neighbor_probe(*of_layer(layer)[:2], k=NEIGHBORS[1]).accuracy for layer in range(source.layers)]
    best = int(np.argmax(on_dev))
    factors = learned_mixture(states[0], numbers[0], seed=seed)
    mixed = [Embedded.of(np.einsum("l,nld->nd", factors, one), ids) for one, ids in zip(states, numbers, strict=True)]
    return {
        f"frozen, layer {best} (best on dev)": score_system(of_layer(best), few_shot=False, seed=seed),
        "frozen, mixture of layers": score_system((mixed[0], mixed[1], mixed[2]), few_shot=False, seed=seed),
    }


def embed_parts(embed: Embed, heard: Heard) -> tuple[Embedded, Embedded, Embedded]:
    """Embeddings of train, dev and test; each utterance is encoded once."""
    parts = heard.parts
    train, dev, test = (
        Embedded.of(embed(corpus, waveforms), parts.numbers(corpus))
        for waveforms, corpus in ((heard.train, parts.train), (heard.dev, parts.dev), (heard.test, parts.test))
    )
    return train, dev, test


def score_system(parts: tuple[Embedded, Embedded, Embedded], *, few_shot: bool, seed: int) -> SystemScore:
    """Both probes and the geometry of embedded parts; the few-shot curve costs most and may be left out."""
    train, dev, test = parts
    linear = linear_probe(train, test, dev)
    hits, dev_hits = {LINEAR: linear.hits}, {}
    for k, reader in zip(NEIGHBORS, READERS[1:], strict=True):
        hits[reader] = neighbor_probe(train, test, k=k).hits
        dev_hits[reader] = neighbor_probe(train, dev, k=k).hits
    geometry = {
        "raw": measure_geometry(test.vectors, test.classes, seed=seed),
        "standardized": measure_geometry(standardized(test.vectors), test.classes, seed=seed),
        "dev": measure_geometry(dev.vectors, dev.classes, seed=seed),
    }
    curve = few_shot_curve(train, test, draws=FEW_SHOT_DRAWS, seed=seed) if few_shot else None
    return SystemScore(hits=hits, dev_hits=dev_hits, linear=linear, geometry=geometry, few_shot=curve, embedded=parts)


def chance_score(parts: LabelledParts) -> SystemScore:
    """Always the class that is most frequent in training."""
    train, test = np.array(parts.numbers(parts.train)), np.array(parts.numbers(parts.test))
    hits = (test == np.bincount(train).argmax()).astype(np.float64)
    return SystemScore(hits=dict.fromkeys(READERS, hits), dev_hits={})


def interval_groups(parts: LabelledParts, label: str) -> tuple[str, tuple[str, ...]]:
    """What intervals draw together, in words, and its name for each test utterance.

    Who speaks, unless speakers are told apart, else what is said, else each utterance: a fold that is one speaker, or a
    few groups, would give an interval that looks certain.
    """
    rows = parts.test.utterances
    columns = {"group": "contents"} if label == "speaker" else {"speaker": "speakers", "group": "contents"}
    for column, name in columns.items():
        if len({getattr(row, column) for row in rows} - {None}) >= ENOUGH_GROUPS:
            groups = tuple(getattr(row, column) or row.id for row in rows)
            return f"{len(set(groups))} {name}", groups
    return f"{len(rows)} utterances", tuple(row.id for row in rows)


def score_cells(systems: dict[str, list[SystemScore]], groups: Sequence[str]) -> dict[str, dict[str, Interval]]:
    """Percent right of each system and reader, with intervals over groups and seeds."""
    return {
        name: {
            reader: bootstrap(np.stack([one.hits[reader] for one in seeds]), groups=groups).scaled(100.0)
            for reader in READERS
        }
        for name, seeds in systems.items()
    }


def change_cells(
    systems: dict[str, list[SystemScore]], baseline: str, groups: Sequence[str]
) -> dict[str, dict[str, Interval]]:
    """Points by which every other system is better than one, paired by utterance."""
    before = systems[baseline]
    return {
        name: {
            reader: paired_bootstrap(
                np.stack([one.hits[reader] for one in seeds]),
                np.stack([one.hits[reader] for one in (before if len(before) == len(seeds) else before[:1])]),
                groups=groups,
            ).scaled(100.0)
            for reader in READERS
        }
        for name, seeds in systems.items()
        if name != baseline
    }


def geometry_dict(score: SystemScore) -> dict[str, Any] | None:
    """Measures as JSON values; None for one that is not finite."""
    if score.geometry is None:
        return None
    return {
        kind: {name: _finite(value) for name, value in to_dict(one).items() if name != "type"} | {"gap": one.gap}
        for kind, one in score.geometry.items()
    }


def mistakes(score: SystemScore, parts: LabelledParts) -> dict[str, Any] | None:
    """Confusions of the linear probe, its recall a class, and how often each speaker was got right."""
    if score.linear is None:
        return None
    truth = np.array(parts.numbers(parts.test))
    counts = confusion(score.linear.predicted, truth, len(parts.names))
    by_speaker: dict[str, list[float]] = {}
    for row, hit in zip(parts.test, score.linear.hits, strict=True):
        by_speaker.setdefault(row.speaker or "unknown", []).append(float(hit))
    return {
        "classes": list(parts.names),
        "confusion": counts.tolist(),
        "recall": [round(100 * float(value), 1) for value in np.diag(counts) / counts.sum(axis=1)],
        "by_speaker": {name: round(100 * sum(hits) / len(hits), 1) for name, hits in sorted(by_speaker.items())},
    }


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
