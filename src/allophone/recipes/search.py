"""A corpus into an index, and texts and clips out of it: what ``allophone index`` and ``allophone search`` do."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from allophone.audio.io import load_audio
from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import AudioError, ConfigError, DataError, ShapeError
from allophone.evaluate.report_media import opus_address
from allophone.frames import SAMPLE_RATE
from allophone.models.aligned import INFO_FILE, Aligned, load_aligned
from allophone.models.conversion import model_folder, model_hash
from allophone.models.speech_embedder import SpeechEmbedder, load_speech_embedder
from allophone.run.execute import fit_threads
from allophone.run.progress import Report, silent
from allophone.search.index import Entry, Hit, IndexInfo, VectorIndex
from allophone.search.page import SearchForm, Shown, search_page

SKIPPED = "skipped.tsv"
BATCH = 256
"""Recordings that are embedded and written at once; a killed run loses no more than these."""
SOUNDS = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".gsm", ".g722", ".aiff", ".m4a"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Towers:
    """What embeds: a speech embedder, with a text side or without."""

    speech: SpeechEmbedder
    aligned: Aligned | None
    """None: recordings can be asked with recordings only."""
    name: str
    """Folder (absolute) or hub id."""
    hash: str

    def vectors(self, waveforms: Sequence[Tensor]) -> NDArray[np.float32]:
        """Vectors of length 1 of waveforms ``(S,)``. Shape ``(B, E)``."""
        found: NDArray[np.float32] = F.normalize(self.speech.embed(waveforms), dim=-1).numpy()
        return found

    def text_vector(self, text: str) -> NDArray[np.float32]:
        """Vector of a text. Shape ``(E,)``.

        Raises:
            ConfigError: The model has no text side.
        """
        if self.aligned is None:
            raise ConfigError(
                f"{self.name} embeds recordings only. Ask with a clip, or make a model of audio and text with "
                "`allophone align`."
            )
        found: NDArray[np.float32] = self.aligned.embed_texts([text])[0].numpy()
        return found


def open_towers(model: str | Path) -> Towers:
    """A model of audio and text, or a speech embedder alone, by folder or hub id.

    Raises:
        CheckpointError: It is neither, or damaged.
    """
    folder = model_folder(model)
    name = str(folder.resolve()) if Path(model).is_dir() else str(model)
    if (folder / INFO_FILE).exists():
        aligned = load_aligned(folder)
        fit_threads(aligned.speech)
        return Towers(speech=aligned.speech, aligned=aligned, name=name, hash=aligned.info.hash)
    speech = load_speech_embedder(folder)
    fit_threads(speech)
    return Towers(speech=speech, aligned=None, name=name, hash=model_hash(speech))


@dataclass(frozen=True, kw_only=True, slots=True)
class Indexed:
    """What ``index_corpus`` did."""

    rows: int
    """In the index now."""
    added: int
    """Of them by this call."""
    described: int
    """Of the others, those whose text, language, speaker or source the corpus tells otherwise than before."""
    skipped: dict[str, str]
    """Utterances that could not be embedded, with the reason; also in ``skipped.tsv``."""


def index_corpus(
    model: str | Path, corpus: Corpus, out: Path, *, window_seconds: float = 15.0, report: Report = silent
) -> Indexed:
    """Add the utterances of a corpus to an index; those that it holds are not embedded again.

    The same call goes on after an interruption, adds what a corpus has gained since, and takes over what it says of the
    same recordings now (text, language, speaker, source). A recording that was replaced under the same id is embedded
    again, and what was there of it goes. One that left the corpus stays.

    Args:
        model: Of ``allophone align``, or another speech embedder.
        corpus: What is added.
        out: Folder of the index, made where there is none.
        window_seconds: Longer utterances are cut into stretches of this length that overlap by half, so that an
            answer says where in them.
        report: Told how far it is.

    Raises:
        CheckpointError: The index there belongs to another model.
        ConfigError: The window is too short, or the extra ``search`` is not installed.
        DataError: The index holds another recording under the same names of corpus and utterance.
    """
    if window_seconds < 1:
        raise ConfigError(f"A window of {window_seconds:g} s says nothing of what is said in it; take 1 s or more.")
    towers = open_towers(model)
    index = VectorIndex.create(out, IndexInfo(model=towers.name, model_hash=towers.hash, dim=towers.speech.dim))
    known = index.known(f"{corpus.name}/")
    older = _older_keys(corpus, known, window_seconds)
    fresh, there = list[Utterance](), list[Utterance]()
    for row in corpus:
        (there if _is_known(row, corpus, known, window_seconds, older.get(row.id, []), out) else fresh).append(row)
    told = [entry for row in there for entry in _entries(row, corpus, window_seconds) if entry != known[entry.key]]
    index.describe(told)
    fresh.sort(key=lambda row: row.duration_seconds)
    progress, skipped, added = report("Indexing"), dict[str, str](), 0
    for start in range(0, len(fresh), BATCH):
        rows = fresh[start : start + BATCH]
        entries, waves = _decoded(rows, corpus, towers, window_seconds, skipped)
        index.remove([key for row in rows for key in older.get(row.id, ())])
        index.add(entries, towers.vectors(waves), replaces=any(entry.key in known for entry in entries))
        added += sum(entry.key not in known for entry in entries)
        progress(min(start + BATCH, len(fresh)), len(fresh), {})
    index.refresh()
    if skipped:
        lines = [f"{name}\t{reason}" for name, reason in sorted(skipped.items())]
        (out / SKIPPED).write_text("\n".join(["id\treason", *lines]) + "\n", encoding="utf-8")
    return Indexed(rows=len(index), added=added, described=len(told), skipped=skipped)


def stretches(duration_seconds: float, window_seconds: float) -> list[tuple[float, float]]:
    """Beginnings and lengths that an utterance is embedded in.

    Example:
        >>> stretches(8.0, 15.0), stretches(40.0, 20.0)
        ([(0.0, 8.0)], [(0.0, 20.0), (10.0, 20.0), (20.0, 20.0)])
    """
    if duration_seconds <= 1.5 * window_seconds:
        return [(0.0, duration_seconds)]
    count = math.ceil(2 * duration_seconds / window_seconds) - 1
    step = (duration_seconds - window_seconds) / (count - 1)
    return [(place * step, window_seconds) for place in range(count)]


def _entries(row: Utterance, corpus: Corpus, window_seconds: float) -> list[Entry]:
    """What the vectors of an utterance stand for: all of it, or its stretches."""
    parts = stretches(row.duration_seconds, window_seconds)
    name, path = f"{corpus.name}/{row.id}", str(corpus.audio_path(row).resolve())
    return [
        Entry(
            key=name if len(parts) == 1 else f"{name}@{begin:.2f}",
            id=row.id,
            corpus=corpus.name,
            path=path,
            offset_seconds=row.offset_seconds + begin,
            duration_seconds=length,
            language=row.language,
            speaker=row.speaker,
            source=row.source,
            text=row.text,
            sha256=row.sha256,
        )
        for begin, length in parts
    ]


def _older_keys(corpus: Corpus, known: Mapping[str, Entry], window_seconds: float) -> dict[str, list[str]]:
    """Utterance to keys of stretches that it no longer has, because it was replaced by one of another length."""
    now = {row.id: {entry.key for entry in _entries(row, corpus, window_seconds)} for row in corpus}
    older: dict[str, list[str]] = defaultdict(list)
    for key, entry in known.items():
        if entry.corpus == corpus.name and key not in now.get(entry.id, {key}):
            older[entry.id].append(key)
    return older


def _is_known(
    row: Utterance,
    corpus: Corpus,
    known: Mapping[str, Entry],
    window_seconds: float,
    older: Sequence[str],
    out: Path,
) -> bool:
    """Whether the index has all of an utterance, as it is and where it is now, and no ``older`` keys of it."""
    own = _entries(row, corpus, window_seconds)
    path, there = own[0].path, [known.get(entry.key) for entry in own]
    for found in [*there, *(known[key] for key in older)]:
        if found is not None and found.path != path and (found.sha256 is None or found.sha256 != row.sha256):
            raise DataError(
                f"{out}: it holds {row.id!r} of a corpus {corpus.name!r} from {found.path}; got another recording, "
                f"{path}, under the same two names. Save one of the corpora under another name."
            )
    return not older and all(
        found is not None and _heard(found) == _heard(entry) for found, entry in zip(there, own, strict=True)
    )


def _heard(entry: Entry) -> tuple[str | None, str, float, float]:
    """What a vector was made from; the rest of an entry may change beside it."""
    return entry.sha256, entry.path, entry.offset_seconds, entry.duration_seconds


def _decoded(
    rows: Sequence[Utterance], corpus: Corpus, towers: Towers, window_seconds: float, skipped: dict[str, str]
) -> tuple[list[Entry], list[Tensor]]:
    """Entries and their waveforms; what cannot be embedded is put into ``skipped``."""
    entries: list[Entry] = []
    waves: list[Tensor] = []
    for row in rows:
        try:
            whole = corpus.audio(row)
        except (AudioError, OSError) as error:
            skipped[row.id] = " ".join(str(error).split())
            continue
        if towers.speech.clock.count(len(whole)) < 1:
            skipped[row.id] = f"{len(whole) / SAMPLE_RATE:.3f} s are shorter than one frame of the model"
            continue
        for (begin, length), entry in zip(
            stretches(row.duration_seconds, window_seconds), _entries(row, corpus, window_seconds), strict=True
        ):
            first, count = round(begin * SAMPLE_RATE), round(length * SAMPLE_RATE)
            waves.append(whole if length == row.duration_seconds else whole[first : first + count])
            entries.append(entry)
    return entries, waves


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Searcher:
    """An open index with its model."""

    index: VectorIndex
    towers: Towers

    def page(
        self, query: str, hits: Sequence[Hit], *, clip: Tensor | None = None, form: SearchForm | None = None
    ) -> str:
        """Answers as HTML with players; with ``form``, one that asks the next question. ``clip``: shape ``(S,)``."""
        shown = [Shown(hit=hit, sound=_sound(hit)) for hit in hits]
        asked = "" if clip is None else opus_address(clip.numpy())
        return search_page(query, shown, self.index.info, spoken_query=asked, form=form)


def open_search(index_folder: Path, model: str | Path | None = None) -> Searcher:
    """Open an index, and its model from where it lay or from where it lies now.

    Raises:
        CheckpointError: The model is not the one that the index was made with.
    """
    index = VectorIndex.open(index_folder)
    towers = open_towers(index.info.model if model is None else model)
    index.require_model(towers.hash)
    return Searcher(index=index, towers=towers)


def search(
    index_folder: Path,
    query: str,
    *,
    top: int = 10,
    language: str | None = None,
    speaker: str | None = None,
    source: str | None = None,
    model: str | Path | None = None,
    page: Path | None = None,
) -> list[Hit]:
    """Ask an index with a text, or with a clip.

    Args:
        index_folder: What ``index_corpus`` wrote.
        query: A text in any language that the model knows, or the path of a recording.
        top: Most answers.
        language: Only answers in this language.
        speaker: Only of this speaker.
        source: Only of this source.
        model: The index' model, where it lies elsewhere now; it must be the same.
        page: Where to write the answers as HTML with players; None = nowhere.

    Returns:
        Best first.

    Raises:
        CheckpointError: The model is not the one that the index was made with.
        DataError: There is no such recording, or the query is empty.
    """
    if top < 1:
        raise ConfigError(f"--top is {top}; expected at least 1 answer.")
    opened = open_search(index_folder, model)
    towers, clip = opened.towers, _clip(query)
    if clip is not None and towers.speech.clock.count(len(clip)) < 1:
        raise ShapeError(f"{query}: {len(clip) / SAMPLE_RATE:.3f} s are shorter than one frame of the model.")
    vector = towers.text_vector(query) if clip is None else towers.vectors([clip])[0]
    hits = opened.index.search(vector, top, language=language, speaker=speaker, source=source)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(opened.page(query, hits, clip=clip), encoding="utf-8")
    return hits


def _clip(query: str) -> Tensor | None:
    """The recording that a query names; None for a text."""
    if not query.strip():
        raise DataError("The query is empty; ask with some words, or with a recording.")
    if len(query) < 4096 and Path(query).is_file():
        return load_audio(query)
    if Path(query).suffix.lower() in SOUNDS:
        raise DataError(f"{query}: no such recording. A query that ends like a sound file is taken for one.")
    return None


def _sound(hit: Hit) -> str:
    entry = hit.entry
    try:
        wave = load_audio(entry.path, offset_seconds=entry.offset_seconds, duration_seconds=entry.duration_seconds)
    except (AudioError, OSError):
        return ""
    return opus_address(wave.numpy())
