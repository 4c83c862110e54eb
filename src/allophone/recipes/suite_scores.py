"""Scores that an evaluation has beside those of the ledger: nearest neighbors, geometry, and units against phones.

Forgetting compares two encoders (``allophone expand``, ``allophone compare``) and translation needs a translator, so
that neither is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.evaluate.embedding_probes import Embedded, neighbor_probe
from allophone.evaluate.measurements import Measurement, System
from allophone.evaluate.protocol import FrameSource
from allophone.evaluate.sources import extract_all, mean_of_each
from allophone.frames import FrameClock
from allophone.metrics.geometry import measure_geometry, standardized
from allophone.metrics.units import joint_counts, pnmi
from allophone.nn.clustering import assign, fit_kmeans
from allophone.recipes.ledger import LedgerConfig, draw_rows, named_rows, spoken
from allophone.recipes.phones import read_phone_table
from allophone.run.progress import Report
from allophone.units.report import phones_of_frames

FRAMES_A_UNIT = 4
"""Fewest frames for a unit where clips are few."""
Summaries = dict[str, Any]
"""Numbers of each system that are no mean over items."""


def space_rows(
    systems: Mapping[System, FrameSource],
    corpora: Mapping[str, Corpus],
    config: LedgerConfig,
    seed: int,
    report: Report,
) -> tuple[list[Measurement], Summaries]:
    """Languages by the 20 nearest clips, and how far languages lie apart, in a middle layer; and its whole geometry.

    The gap of a clip is its mean cosine with clips of its language less that with the others, every dimension
    standardized over all of them.
    """
    sides = [
        {language: spoken(corpora[language], rows) for language, rows in side.items()}
        for side in named_rows(dict(corpora), config)
    ]
    sides[1] = {language: clips for language, clips in sides[1].items() if len(clips) > 1}
    if len(sides[1]) < 2:
        return [], {}
    names = list(sides[0])
    found: list[Measurement] = []
    summaries: Summaries = {}
    told = report("Neighbors and geometry")
    for done, (system, source) in enumerate(systems.items()):
        layer = source.layers // 2
        train, test = (
            Embedded.of(
                np.concatenate([mean_of_each(source, clips.waveforms)[:, layer].numpy() for clips in side.values()]),
                [names.index(language) for language, clips in side.items() for _ in range(len(clips))],
            )
            for side in sides
        )
        values = {"language_neighbors": neighbor_probe(train, test).hits, "language_gap": class_gaps(test)}
        summaries[system] = to_dict(measure_geometry(test.vectors, test.classes, seed=seed))
        for measure, items in values.items():
            start = 0
            for language, clips in sides[1].items():
                own = items[start : start + len(clips)]
                start += len(clips)
                found.append(_measurement(measure, language, system, seed, clips.ids, own, np.ones(len(own))))
        told(done + 1, len(systems), {})
    guessed = {"language_neighbors": 1 / len(sides[0]), "language_gap": 0.0}
    chance = [
        replace(one, system="chance", numerators=np.full(len(one.items), guessed[one.measure]))
        for one in found
        if one.system == "before"
    ]
    return found + chance, summaries


def class_gaps(test: Embedded) -> NDArray[np.float64]:
    """Mean cosine of each embedding with others of its class, less that with all other classes. Shape ``(N,)``."""
    unit = Embedded.of(standardized(test.vectors), test.classes).unit
    cosines = unit @ unit.T
    same = test.classes[:, None] == test.classes[None]
    own = (cosines * same).sum(axis=1) - np.diagonal(cosines)
    gaps: NDArray[np.float64] = own / (same.sum(axis=1) - 1) - (cosines * ~same).sum(axis=1) / (~same).sum(axis=1)
    return gaps


def phone_rows(
    systems: Mapping[System, FrameSource],
    corpora: Mapping[str, Corpus],
    clock: FrameClock,
    config: LedgerConfig,
    seed: int,
    report: Report,
) -> tuple[list[Measurement], Summaries]:
    """Phones by units, in languages whose corpus has phone labels beside it; units are fitted anew for each system.

    On half of the labelled clips frames of a middle layer are clustered, and each unit takes the phone that most of its
    frames have; scored are the frames of the other half. PNMI is over that half.
    """
    found: list[Measurement] = []
    summaries: Summaries = {}
    told = report("Units against phones")
    for language, corpus in corpora.items():
        labelled = read_phone_table(corpus)
        rows = draw_rows([row for row in corpus if row.id in labelled], config.most_phone_clips)
        if len(rows) < config.min_phone_clips:
            continue
        clips = spoken(corpus, rows)
        alphabet = sorted({one.phone for row in rows for one in labelled[row.id]})
        for done, (system, source) in enumerate(systems.items()):
            frames = [one[source.layers // 2].float() for one in extract_all(source, clips.waveforms)]
            phones = [
                np.array([-1 if phone is None else alphabet.index(phone) for phone in told_phones])
                for told_phones in (
                    phones_of_frames(labelled[row.id], len(one), clock) for row, one in zip(rows, frames, strict=True)
                )
            ]
            units, size = _units_of(frames, config.phone_units, seed)
            hits, counts, information = _phones_by_units(units, phones, size, len(alphabet))
            items = clips.ids[1::2]
            found.append(_measurement("unit_phones", language, system, seed, items, hits, counts))
            summaries.setdefault(language, {})[system] = {"units": size, "pnmi": information}
            if system == "before":
                common = np.bincount(np.concatenate([p[p >= 0] for p in phones[::2]])).argmax()
                guessed = np.array([(p == common).sum() for p in phones[1::2]], dtype=np.float64)
                found.append(_measurement("unit_phones", language, "chance", seed, items, guessed, counts))
            told(done + 1, len(systems), {})
    return found, summaries


def _units_of(frames: Sequence[Tensor], wanted: int, seed: int) -> tuple[list[NDArray[np.int64]], int]:
    """Units of all clips, fitted on every second one from the first; and how many there are."""
    fitted = torch.cat(list(frames[::2]))
    size = max(2, min(wanted, len(fitted) // FRAMES_A_UNIT))
    centroids = fit_kmeans(lambda: iter([fitted]), size, seed=seed).centroids
    return [assign(one, centroids).numpy() for one in frames], size


def _phones_by_units(
    units: Sequence[NDArray[np.int64]], phones: Sequence[NDArray[np.int64]], size: int, num_phones: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Right and labelled frames of every second clip from the second, and PNMI over them."""
    joints = [joint_counts(u[p >= 0], p[p >= 0], size, num_phones) for u, p in zip(units, phones, strict=True)]
    learned, tested = np.sum(joints[::2], axis=0), joints[1::2]
    read = np.where(learned.sum(axis=1) > 0, learned.argmax(axis=1), learned.sum(axis=0).argmax())
    hits = np.array([joint[np.arange(size), read].sum() for joint in tested], dtype=np.float64)
    counts = np.array([joint.sum() for joint in tested], dtype=np.float64)
    return hits, counts, pnmi(np.sum(tested, axis=0))


def _measurement(
    measure: str,
    language: str,
    system: System,
    seed: int,
    items: tuple[str, ...],
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
) -> Measurement:
    return Measurement(
        measure=measure,
        language=language,
        system=system,
        seed=seed,
        items=items,
        numerators=np.asarray(numerators, dtype=np.float64),
        denominators=np.asarray(denominators, dtype=np.float64),
    )
