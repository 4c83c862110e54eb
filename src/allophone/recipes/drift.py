"""Forgetting taken apart on the kept languages of an expansion: drifted units, lost units, what features still tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.audio.features import FILTER_BANK_CLOCK
from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.evaluate.drift import (
    PARTS,
    ROWS,
    Drift,
    Row,
    found_again,
    guess,
    parts,
    phone_information,
    probe,
    same_id,
)
from allophone.evaluate.report_content import Table
from allophone.evaluate.report_tables import language_name
from allophone.evaluate.sources import FilterbankSource
from allophone.frames import seconds_to_samples
from allophone.metrics.intervals import Interval
from allophone.models.build import Encoder
from allophone.nn.clustering import assign, fit_kmeans
from allophone.nn.codebook import Codebook
from allophone.recipes.ledger import LedgerConfig, draw_rows
from allophone.recipes.phones import read_phone_table
from allophone.run.base import Base
from allophone.run.expansion import random_encoder
from allophone.run.progress import Report, silent
from allophone.run.targets import waveforms
from allophone.seeding import numpy_generator
from allophone.units.encode import encode_units
from allophone.units.extract import FrameCache, FrameExtractor, VoiceNormalizer
from allophone.units.report import phones_of_frames

Ids = NDArray[np.int64]
TITLES = {
    "same_id": "same id",
    "found_again": "old unit found again",
    "pnmi": "PNMI",
    "frame_probe": "probe: old unit",
    "phone_probe": "probe: phone",
}
"""Measures, in percent."""


@dataclass(frozen=True, slots=True, eq=False)
class _Spoken:
    """One kept language."""

    language: str
    corpus: Corpus
    training: tuple[str, ...]
    """Utterances that units are fitted on and read by."""
    items: tuple[str, ...]
    """Held-out utterances."""
    phones: dict[str, Ids]
    """Phone of every frame, -1 for none, of utterances that a linguist labelled; often none."""
    num_phones: int

    def halves(self) -> tuple[list[str], list[str]]:
        """Labelled utterances to learn phones from, and those to score."""
        names = sorted(self.phones)
        return names[::2], names[1::2]


def drift_rows(
    base: Base,
    adapted: Encoder,
    codebook: Codebook,
    heard: Mapping[str, Corpus],
    whole: Mapping[str, Corpus],
    config: LedgerConfig,
    seed: int,
    *,
    cache: FrameCache | None = None,
    report: Report = silent,
) -> list[Drift]:
    """Every row of every kept language; empty where the base came without units of its own, or nothing is kept.

    Args:
        base: The model before.
        adapted: The encoder after.
        codebook: The units that are handed over with it.
        heard: What masked prediction used of each kept language: some training audio and the held-out utterances.
        whole: All of each kept language; phone labels are looked for beside it.
        config: How many labelled utterances at most.
        seed: Of the clusterings and of the random encoder.
        cache: Frames of the base at the layer of its codebook.
        report: Told how far it is.
    """
    if not config.drift or base.codebook is None or base.codebook.info.front_end != "model":
        return []
    spoken = [one for one in (_prepare(tag, heard[tag], whole[tag], base, config) for tag in heard) if one is not None]
    if not spoken:
        return []
    random = random_encoder(base.encoder, seed)
    told = report("Forgetting taken apart")
    most_units = max(base.codebook.info.num_units, codebook.info.num_units)
    found: list[Drift] = []
    old: dict[str, dict[str, Ids]] = {}
    encoders: dict[Row, Encoder | None] = {"before": base.encoder, "after": adapted}
    encoders |= {"random encoder": random, "filter bank": None}
    for number, (row, encoder) in enumerate(encoders.items()):
        frames = {
            one.language: _frames(one, encoder, base, cache if row == "before" else None, old.get(one.language))
            for one in spoken
        }
        pooled = [frames[one.language][name] for one in spoken for name in one.training]
        size = min(base.codebook.info.num_units, sum(map(len, pooled)))
        refit = fit_kmeans(pooled.__iter__, size, seed=seed, init_frames=max(2**18, size)).centroids
        for one in spoken:
            own = frames[one.language]
            if row == "before":
                old[one.language] = _labels(own, base.codebook.centroids)
                for name, phones in one.phones.items():
                    one.phones[name] = _as_many(phones, len(own[name]))
                found += _chance(one, old[one.language], seed)
            units: dict[Row, dict[str, Ids]] = {row: _labels(own, refit)}
            if row == "before":
                units = {"before": old[one.language], "before, re-fitted": units["before"]}
            if row == "after":
                handed = _handed_over(own, codebook, one, adapted, base.codebook)
                units = {
                    "after, old centroids": _labels(own, base.codebook.centroids),
                    "after, re-fitted": units["after"],
                    "after, handed over": handed,
                }
            found += _of_units(one, units, old[one.language], most_units)
            found += _of_features(one, row, own, old[one.language], base.codebook.info.num_units)
        told(number + 1, len(encoders), {})
    return found


def _prepare(language: str, heard: Corpus, whole: Corpus, base: Base, config: LedgerConfig) -> _Spoken | None:
    """What is scored of a language; None where it has no training or no held-out utterance."""
    training = tuple(row.id for row in heard if row.split == "train")
    items = tuple(row.id for row in heard if row.split == "test")
    if not training or not items:
        return None
    table = read_phone_table(whole)
    labelled = draw_rows([row for row in whole if row.id in table], config.most_test_clips)
    clock = base.encoder.clock
    names = {
        row.id: phones_of_frames(table[row.id], clock.count(seconds_to_samples(row.duration_seconds)), clock)
        for row in labelled
    }
    alphabet = {phone: i for i, phone in enumerate(sorted({p for ids in names.values() for p in ids if p is not None}))}
    phones = {
        name: np.array([-1 if phone is None else alphabet[phone] for phone in row], dtype=np.int64)
        for name, row in names.items()
    }
    phones = {} if len(alphabet) < 2 or len(phones) < 4 else phones
    known = {row.id: row for row in (*heard, *(row for row in labelled if row.id in phones))}
    return _Spoken(language, whole.with_utterances(_absolute(known, whole)), training, items, phones, len(alphabet))


def _absolute(known: Mapping[str, Utterance], whole: Corpus) -> tuple[Utterance, ...]:
    """Rows of one corpus as they stand in the other, which has the same ids."""
    own = {row.id: row for row in whole}
    return tuple(own.get(name, row) for name, row in known.items())


def _frames(
    one: _Spoken, encoder: Encoder | None, base: Base, cache: FrameCache | None, like: Mapping[str, Ids] | None
) -> dict[str, Tensor]:
    """Frames of every utterance as the base's codebook takes them, ``(T, D)``; filter banks cut to as many."""
    assert base.codebook is not None
    stream = waveforms(one.corpus, one.corpus.utterances)
    if encoder is None:
        source = FilterbankSource(round(base.encoder.clock.hop / FILTER_BANK_CLOCK.hop))
        raw = {name: _as_long(source.extract([wave])[0][0], len(like[name])) for name, wave in stream()}  # type: ignore[index]
    else:
        extractor = FrameExtractor("model", encoder, base.codebook.info.layer, cache)
        raw = {name: frames.cpu() for name, frames in extractor.frames(stream())}
    if base.codebook.info.normalization == "none":
        return raw
    voices = VoiceNormalizer({row.id: row.speaker for row in one.corpus})
    voices.gather(raw.items())
    return {name: voices(name, frames) for name, frames in raw.items()}


def _as_long(frames: Tensor, count: int) -> Tensor:
    """The first ``count`` frames, the last one repeated where there are fewer. ``(T, D)``."""
    return frames[torch.arange(count).clamp_max(len(frames) - 1)]


def _as_many(phones: Ids, count: int) -> Ids:
    """The first ``count`` phones, none where there are fewer. ``(T,)``."""
    return np.append(phones, np.full(max(0, count - len(phones)), -1))[:count]


def _labels(frames: Mapping[str, Tensor], centroids: Tensor) -> dict[str, Ids]:
    return {name: assign(values, centroids).numpy() for name, values in frames.items()}


def _handed_over(
    frames: Mapping[str, Tensor], codebook: Codebook, one: _Spoken, adapted: Encoder, old: Codebook
) -> dict[str, Ids]:
    """Units in the pack, which may be of another layer than the base's."""
    if (codebook.info.layer, codebook.info.normalization) == (old.info.layer, old.info.normalization):
        return _labels(frames, codebook.centroids)
    speakers = {row.id: row.speaker for row in one.corpus}
    units = encode_units(waveforms(one.corpus, one.corpus.utterances), codebook, encoder=adapted, speakers=speakers)
    return {name: units[name].numpy() for name in units}


def _of_units(one: _Spoken, units: Mapping[Row, dict[str, Ids]], old: Mapping[str, Ids], size: int) -> list[Drift]:
    found = []
    for row, now in units.items():
        found.append(same_id(old, now, one.items, language=one.language, row=row))
        found.append(found_again(old, now, one.training, one.items, language=one.language, row=row))
        if one.phones:
            found.append(_information(one, now, size, row))
    return [item for item in found if item.measure != "same_id" or item.row.startswith("after,")]


def _information(one: _Spoken, units: Mapping[str, Ids], size: int, row: Row) -> Drift:
    return phone_information(
        units,
        one.phones,
        sorted(one.phones),
        num_units=size,
        num_phones=one.num_phones,
        language=one.language,
        row=row,
    )


def _of_features(
    one: _Spoken, row: Row, frames: Mapping[str, Tensor], old: Mapping[str, Ids], size: int
) -> list[Drift]:
    language = one.language
    found = [
        probe(frames, old, one.training, one.items, classes=size, measure="frame_probe", language=language, row=row)
    ]
    if one.phones:
        learn, score = one.halves()
        found.append(
            probe(
                frames,
                one.phones,
                learn,
                score,
                classes=one.num_phones,
                measure="phone_probe",
                language=language,
                row=row,
            )
        )
    return found


def _chance(one: _Spoken, old: Mapping[str, Ids], seed: int) -> list[Drift]:
    """The commonest answer for everything; for information, the old units in another order within each utterance."""
    found = [
        guess(old, one.training, one.items, measure=measure, language=one.language)
        for measure in ("same_id", "found_again", "frame_probe")
    ]
    if one.phones:
        learn, score = one.halves()
        found.append(guess(one.phones, learn, score, measure="phone_probe", language=one.language))
        shuffled = {name: numpy_generator(seed, "shuffled units", name).permutation(old[name]) for name in one.phones}
        size = 1 + max(int(ids.max()) for ids in shuffled.values())
        found.append(_information(one, shuffled, size, "chance"))
    return found


def drift_tables(found: Sequence[Drift]) -> tuple[Table, ...]:
    """The change of each kept language in its parts, and every row behind it; empty where nothing was measured."""
    if not found:
        return ()
    languages = list(dict.fromkeys(one.language for one in found))
    apart = []
    for language in languages:
        for measure in ("found_again", "pnmi"):
            split = parts(found, measure, language)
            if split:
                reader = "phone_probe" if measure == "pnmi" else "frame_probe"
                by_row = {one.row: one for one in found if (one.measure, one.language) == (reader, language)}
                change = by_row["after"].minus(by_row["before"])
                points = [_points(split[part]) for part in PARTS]
                apart.append((f"{language_name(language)}, {TITLES[measure]}", *points, _points(change)))
    keys = [key for key in TITLES if any(one.measure == key for one in found)]
    cells = {(one.language, one.row, one.measure): _percent(one.interval) for one in found}
    rows = [
        (f"{language_name(tag)}: {row}", *(cells.get((tag, row, key), "–") for key in keys))
        for tag in languages
        for row in ROWS
        if any((tag, row, key) in cells for key in keys)
    ]
    return (
        Table(
            title="Forgetting taken apart",
            explanation="What a program of the old units loses (all), how much of it is only that units moved and "
            "comes back with new centroids (drift), how much does not (loss), and what a probe on features loses.",
            columns=("Language and measure", "all", "drift", "loss", "other clustering", "probe on features"),
            rows=tuple(apart),
            note="Points of percent, 95 % intervals over utterances; drift, loss and other clustering add up to all.",
        ),
        Table(
            title="Old units in the new model",
            explanation="Share of held-out frames whose old unit has the same id, can be told from the new unit, or "
            "can be read from the features by a linear probe; and what units tell about labelled phones.",
            columns=("Language and system", *(TITLES[key] for key in keys)),
            rows=tuple(rows),
            note="Percent; units of filter bank and random encoder are fitted on the same audio; chance names the "
            "commonest answer, for PNMI shuffled units.",
        ),
    )


def drift_json(found: Sequence[Drift]) -> list[dict[str, Any]]:
    """Every row with its interval, and the parts of each change, as JSON values."""
    rows = [
        {"measure": one.measure, "language": one.language, "row": one.row, **_bounds(one.interval)} for one in found
    ]
    pairs = dict.fromkeys((one.measure, one.language) for one in found)
    return rows + [
        {"measure": measure, "language": language, "part": part, **_bounds(interval)}
        for measure, language in pairs
        for part, interval in parts(found, measure, language).items()
    ]


def _bounds(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}


def _points(interval: Interval) -> str:
    return f"{interval.value:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})".replace("-", "−")


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1f} ({interval.low:.1f}–{interval.high:.1f})"
