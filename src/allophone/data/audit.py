"""Listen to a whole corpus in one pass and write one HTML page that says, in plain words, what it holds."""

from __future__ import annotations

import base64
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
import pyarrow.parquet as pq
import soundfile

from allophone.audio.io import Samples, audio_blocks, probe_audio
from allophone.data.corpus import Corpus
from allophone.data.decoding import SHARD_FILES
from allophone.data.measure import Measurement, measure, similar_pairs
from allophone.data.quarantine import Quarantined
from allophone.data.splits import find_leaks
from allophone.data.utterance import Utterance
from allophone.engine import Engine, Shard, confirm_unreadable, cut, decoding_engine
from allophone.errors import AudioError
from allophone.frames import SAMPLE_RATE
from allophone.text.languages import parse_language

NEAR_DUPLICATE = 0.97
"""Similarity of fingerprints from which two recordings are taken for the same one."""
CLIPPED_SHARE = 1e-4
"""Share of samples at full scale from which an utterance counts as clipped."""
NOISY_DB = 15.0
PLAYER_SECONDS = 10.0
DURATION_EDGES = (1, 2, 3, 5, 8, 12, 20, 30)

_LISTED = 200
_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """A sample that the page plays."""

    caption: str
    id: str
    text: str
    sound: str
    """``data:`` address of Ogg Opus at 16 kHz."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageAudit:
    """What one language of a corpus holds."""

    language: str
    name: str
    utterances: int
    hours: float
    speakers: int
    without_speaker: int
    largest_speaker_share: float
    """Share of the language's utterances by its most recorded speaker; 0 when no speaker is known."""
    sample_rates: dict[int, int]
    """Hz to utterances, most frequent first."""
    durations: tuple[tuple[str, int], ...]
    """Range in seconds to utterances."""
    median_seconds: float
    clipped: int
    """Utterances with more than one sample in 10,000 at full scale."""
    silence_share: float
    """Share of audio time without sound."""
    snr_db: tuple[float, float, float]
    """10th percentile, median, 90th percentile."""
    noisy: int
    with_text: int
    characters: tuple[tuple[str, int], ...]
    """Characters of the texts, most frequent first."""
    players: tuple[Player, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What an audit found; the page shows the same."""

    corpus: str
    hash: str
    hours: float
    utterances: int
    languages: tuple[LanguageAudit, ...]
    exact_duplicates: tuple[tuple[str, ...], ...]
    """Ids of utterances whose samples are the same."""
    near_duplicates: tuple[tuple[str, str, float], ...]
    """Two ids and how similar they are; without exact copies."""
    unreadable: tuple[Quarantined, ...]
    """Files of the corpus that can no longer be decoded."""
    quarantined: tuple[Quarantined, ...]
    """What the import had left out."""
    leaks: dict[str, dict[str, tuple[str, ...]]]
    """Speakers, groups, texts and recordings that lie in more than one split, and in which."""


def audit(
    corpus: Corpus,
    out_html: str | Path,
    *,
    players: int = 3,
    workers: int | None = None,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Decode every utterance once, measure it, and write the page.

    Args:
        corpus: What to listen to.
        out_html: File to write: one page that needs nothing else, also offline.
        players: Samples per language to embed (typical, noisiest, longest, then evenly spread).
        workers: Threads that decode; one a core when None.
        engine: Where the recordings are measured; None is this process. The figures are the same with any.
        progress: Called with (utterances done, utterances in all).

    Returns:
        The figures on the page.
    """
    measured, unreadable = _measure_all(corpus, decoding_engine(engine, workers), progress)
    rows = [row for row in corpus.utterances if row.id in measured]
    by_language: dict[str, list[Utterance]] = defaultdict(list)
    for row in rows:
        by_language[row.language].append(row)
    exact = _exact_duplicates(rows, measured)
    texts = find_leaks(corpus, by=("text",)).get("text", {})
    result = Audit(
        corpus=corpus.name,
        hash=corpus.hash,
        hours=sum(corpus.hours().values()),
        utterances=len(corpus),
        languages=tuple(
            _audit_language(corpus, language, group, measured, players)
            for language, group in sorted(by_language.items())
        ),
        exact_duplicates=exact,
        near_duplicates=_near_duplicates(rows, measured, exact),
        unreadable=tuple(unreadable),
        quarantined=corpus.quarantined or _saved_quarantine(corpus.folder),
        leaks=find_leaks(corpus) | ({"text": texts} if texts else {}),
    )
    out_html = Path(out_html)
    out_html.parent.mkdir(parents=True, exist_ok=True)
    out_html.write_text(render(result), encoding="utf-8")
    return result


def render(result: Audit) -> str:
    """The page as HTML; every value is escaped."""
    source = resources.files("allophone.data").joinpath("templates/audit.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(
        audit=result, findings=findings(result), listed=_LISTED, noisy_db=NOISY_DB, near=NEAR_DUPLICATE
    )


def findings(result: Audit) -> list[str]:
    """What someone should look at first, as sentences."""
    notes = [note for entry in result.languages for note in _language_findings(entry)]
    if result.exact_duplicates:
        notes.append(f"{len(result.exact_duplicates)} recordings are there more than once, sample for sample.")
    if result.near_duplicates:
        notes.append(f"{len(result.near_duplicates)} pairs of recordings sound like copies of each other.")
    if result.unreadable:
        notes.append(f"{len(result.unreadable)} files of the corpus can no longer be read.")
    if result.quarantined:
        notes.append(f"{len(result.quarantined)} recordings were left out when the corpus was imported.")
    for kind, shared in result.leaks.items():
        first, splits = next(iter(shared.items()))
        notes.append(
            f"In more than one split: {len(shared)} {kind}{'s' if len(shared) > 1 else ''}, first {first!r} in "
            f"{' and '.join(splits)}. Scores will be too good; `allophone corpus split` draws splits anew."
        )
    return notes


def _language_findings(entry: LanguageAudit) -> list[str]:
    name, count = entry.name, entry.utterances
    low_rate = sum(number for rate, number in entry.sample_rates.items() if rate < SAMPLE_RATE)
    notes = {
        f"{name}: {entry.clipped} of {count} recordings are clipped (recorded too loud).": entry.clipped > 0.05 * count,
        f"{name}: {entry.noisy} of {count} recordings are noisy (below {NOISY_DB:.0f} dB).": entry.noisy > 0.25 * count,
        f"{name}: {entry.silence_share:.0%} of the time nobody speaks.": entry.silence_share > 0.4,
        f"{name}: {count - entry.with_text} recordings have no text.": 0 < entry.with_text < count,
        f"{name}: the speaker of {entry.without_speaker} recordings is not known; splits cannot keep speakers apart.": (
            entry.without_speaker > 0
        ),
        f"{name}: {low_rate} recordings have a sample rate below 16 kHz and others not; a model can tell them apart.": (
            0 < low_rate < count
        ),
    }
    return [note for note, holds in notes.items() if holds]


@dataclass(frozen=True, slots=True)
class _Measure:
    """Figures of the utterances of a shard, or why there are none."""

    corpus: Corpus
    """Where the sound files lie; without rows."""

    def __call__(self, shard: Shard[Utterance]) -> list[Measurement | str]:
        return [self._measure(row) for row in shard.items]

    def _measure(self, row: Utterance) -> Measurement | str:
        try:
            return measure(_samples(self.corpus, row), row.sample_rate)
        except AudioError as error:
            return str(error).removeprefix(f"{self.corpus.audio_path(row)}: ")


def _measure_all(
    corpus: Corpus, engine: Engine, progress: Callable[[int, int], None] | None
) -> tuple[dict[str, Measurement], list[Quarantined]]:
    """Figures by id, and what could not be decoded."""
    measured: dict[str, Measurement] = {}
    unreadable: list[Quarantined] = []
    job, shards = _Measure(Corpus(folder=corpus.folder.absolute(), utterances=())), cut(corpus.utterances, SHARD_FILES)
    for shard, outcomes in zip(shards, engine.map(job, shards), strict=True):
        confirm_unreadable(engine, _unread(shard, outcomes), lambda: _unread(shard, job(shard)))  # noqa: B023 (at once)
        for row, outcome in zip(shard.items, outcomes, strict=True):
            if isinstance(outcome, str):
                path = str(corpus.audio_path(row))
                unreadable.append(Quarantined(path=path, language=row.language, reason=outcome, id=row.id))
            else:
                measured[row.id] = outcome
            if progress is not None:
                progress(len(measured) + len(unreadable), len(corpus))
    return measured, unreadable


def _unread(shard: Shard[Utterance], outcomes: Sequence[Measurement | str]) -> list[str]:
    return [row.path for row, outcome in zip(shard.items, outcomes, strict=True) if isinstance(outcome, str)]


def _samples(corpus: Corpus, row: Utterance) -> Samples:
    """Samples of an utterance at the file's own rate, mono, shape ``(N,)``."""
    path = corpus.audio_path(row)
    info = probe_audio(path)
    if info.sample_rate != row.sample_rate:
        raise AudioError(f"{path}: {info.sample_rate} Hz, but the corpus says {row.sample_rate} Hz. Import it again.")
    start, num_frames = round(row.offset_seconds * info.sample_rate), round(row.duration_seconds * info.sample_rate)
    if info.num_frames:
        num_frames = min(num_frames, info.num_frames - start)
    blocks = list(audio_blocks(path, start=start, num_frames=num_frames, info=info)) if num_frames > 0 else []
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(samples) < 0.025 * info.sample_rate:
        raise AudioError(f"{path}: fewer than 25 ms at {row.offset_seconds:g} s. Import the corpus again.")
    return samples


def _audit_language(
    corpus: Corpus, language: str, rows: Sequence[Utterance], measured: dict[str, Measurement], players: int
) -> LanguageAudit:
    seconds = np.array([row.duration_seconds for row in rows])
    snr = np.array([measured[row.id].snr_db for row in rows])
    silence = np.array([measured[row.id].silence_share for row in rows])
    speakers = Counter(row.speaker for row in rows if row.speaker is not None)
    texts = [row.text for row in rows if row.text]
    low, middle, high = (float(value) for value in np.percentile(snr, (10, 50, 90)))
    return LanguageAudit(
        language=language,
        name=parse_language(language).name,
        utterances=len(rows),
        hours=float(seconds.sum()) / 3600,
        speakers=len(speakers),
        without_speaker=len(rows) - speakers.total(),
        largest_speaker_share=max(speakers.values(), default=0) / len(rows),
        sample_rates=dict(Counter(row.sample_rate for row in rows).most_common()),
        durations=_histogram(seconds),
        median_seconds=float(np.median(seconds)),
        clipped=sum(measured[row.id].clipped_share > CLIPPED_SHARE for row in rows),
        silence_share=float((silence * seconds).sum() / seconds.sum()),
        snr_db=(low, middle, high),
        noisy=int((snr < NOISY_DB).sum()),
        with_text=len(texts),
        characters=tuple(Counter("".join("".join(texts).split())).most_common(_CHARACTERS)),
        players=tuple(_player(corpus, row, why, measured) for row, why in _samples_to_play(rows, measured, players)),
    )


def _histogram(seconds: np.ndarray) -> tuple[tuple[str, int], ...]:
    """Utterances per range of duration."""
    edges = (0, *DURATION_EDGES, np.inf)
    counts = np.histogram(seconds, bins=np.array(edges, dtype=float))[0].tolist()
    names = [f"{low}-{high} s" if high < np.inf else f"over {low} s" for low, high in itertools.pairwise(edges)]
    return tuple(zip(names, counts, strict=True))


def _samples_to_play(
    rows: Sequence[Utterance], measured: dict[str, Measurement], count: int
) -> list[tuple[Utterance, str]]:
    """Utterances to embed with the reason for each, all different."""
    by_snr = sorted(rows, key=lambda row: (measured[row.id].snr_db, row.id))
    longest = max(rows, key=lambda row: row.duration_seconds)
    wanted = [(by_snr[len(rows) // 2], "typical"), (by_snr[0], "noisiest"), (longest, "longest")]
    wanted += [(row, "another") for row in by_snr[:: max(1, len(by_snr) // max(1, count))]]
    chosen: dict[str, tuple[Utterance, str]] = {}
    for row, why in wanted:
        if len(chosen) < count:
            chosen.setdefault(row.id, (row, why))
    return list(chosen.values())


def _player(corpus: Corpus, row: Utterance, why: str, measured: dict[str, Measurement]) -> Player:
    waveform = corpus.audio(row).numpy()[: int(PLAYER_SECONDS * SAMPLE_RATE)]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1, 1), SAMPLE_RATE, format="OGG", subtype="OPUS")
    shortened = f", first {PLAYER_SECONDS:.0f} s" if row.duration_seconds > PLAYER_SECONDS else ""
    return Player(
        caption=f"{why}: {row.duration_seconds:.1f} s, {measured[row.id].snr_db:.0f} dB over noise{shortened}",
        id=row.id,
        text=row.text or "",
        sound="data:audio/ogg;base64," + base64.b64encode(buffer.getvalue()).decode(),
    )


def _exact_duplicates(rows: Iterable[Utterance], measured: dict[str, Measurement]) -> tuple[tuple[str, ...], ...]:
    by_hash: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_hash[measured[row.id].sha256].append(row.id)
    return tuple(tuple(ids) for ids in by_hash.values() if len(ids) > 1)


def _near_duplicates(
    rows: Sequence[Utterance], measured: dict[str, Measurement], exact: tuple[tuple[str, ...], ...]
) -> tuple[tuple[str, str, float], ...]:
    """Pairs that sound alike; of exact copies only the first takes part."""
    copies = {name for group in exact for name in group[1:]}
    rows = [row for row in rows if row.id not in copies]
    if not rows:
        return ()
    fingerprints = np.stack([measured[row.id].fingerprint for row in rows])
    pairs = similar_pairs(fingerprints, np.array([row.duration_seconds for row in rows]), NEAR_DUPLICATE)
    return tuple((rows[first].id, rows[second].id, round(similarity, 3)) for first, second, similarity in pairs)


def _saved_quarantine(folder: Path) -> tuple[Quarantined, ...]:
    path = folder / "quarantine.parquet"
    return tuple(Quarantined(**row) for row in pq.read_table(path).to_pylist()) if path.is_file() else ()
