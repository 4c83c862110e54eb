"""How a vocoder's speech is heard: recordings to units, to speech, to a transcript, beside the recordings themselves.

What a unit vocoder is worth is told by those who never met its units. One recognizer hears the recordings (the floor),
the speech made of their units, and speech made of the same units in random order (what a recognizer makes of the voice
alone).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError
from allophone.evaluate.result import Result, Signature, save_results, tabulate
from allophone.evaluate.spoken import NORMALIZER, Clip, Judges, Spoken, score_spoken, spoken_results
from allophone.evaluate.transcripts import load_transcriber, transcriber_hash
from allophone.frames import FrameClock
from allophone.models.conversion import model_hash
from allophone.models.mos_predictor import load_mos_predictor
from allophone.models.speech_embedder import load_speech_embedder
from allophone.models.vocoder_conversion import vocoder_hash
from allophone.recipes.vocoder import with_codebook
from allophone.run.progress import Report, silent
from allophone.run.speaking import Speech
from allophone.run.vocoder import UNKNOWN, concerned, held_out, speak_rows
from allophone.seeding import torch_generator
from allophone.units.encode import encode_units

ORIGINAL, MADE, SHUFFLED = "recordings", "made of units", "made of shuffled units"
AGAINST_RECORDINGS = ("pitch error", "voicing error", "voice similarity")
"""What recordings cannot be asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeardBy:
    """The judges with what a signature says of them."""

    judges: Judges
    settings: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResynthesisScore:
    """What :func:`score_vocoder` leaves."""

    rows: dict[str, list[Result]]
    """Results by system."""
    transcripts: Path
    """Table of what was heard."""
    scores: Path
    """The table, in Markdown."""


def open_judges(transcriber: str | Path, mos: Path | None = None, embedder: str | Path | None = None) -> HeardBy:
    """Load who listens.

    Args:
        transcriber: Speech recognizer of ``transformers``: folder or hub id.
        mos: Folder that ``scripts/get_mos_predictor.py`` wrote; None = no predicted marks.
        embedder: Folder that ``allophone tune --label speaker`` wrote; None = no similarity of voices.

    Raises:
        CheckpointError: One of them cannot be read.
    """
    named = [f"transcriber {Path(transcriber).name} {transcriber_hash(transcriber)}"]
    predictor = None if mos is None else load_mos_predictor(mos)
    speakers = None if embedder is None else load_speech_embedder(embedder)
    named += [] if predictor is None else [f"mos {model_hash(predictor)}"]
    named += [] if speakers is None else [f"voices {model_hash(speakers)}"]
    judges = Judges(
        transcribe=partial(load_transcriber, transcriber),
        predict_mos=None if predictor is None else predictor.predict,
        embed=None if speakers is None else speakers.embed,
    )
    return HeardBy(judges=judges, settings=", ".join(named))


def score_vocoder(
    vocoder: Path,
    corpus: Corpus,
    out: Path,
    *,
    model: str | Path,
    codebook: Path | None = None,
    heard_by: HeardBy,
    clips: int = 60,
    seed: int = 0,
    report: Report = silent,
) -> ResynthesisScore:
    """Score held-out clips with a text, of voices that the vocoder knows, and write ``result.json`` and two tables.

    Args:
        vocoder: Folder that ``allophone vocoder train`` wrote.
        corpus: Its dev split is heard, or else its test split.
        out: Folder.
        model: Encoder that the codebook was fitted on.
        codebook: Folder; None = the one beside the model.
        heard_by: The judges.
        clips: At most so many, drawn by seed.
        seed: Of the drawing, and of the shuffled units.
        report: Told how far it is.

    Raises:
        ConfigError: No clip is asked for, or the model has no codebook.
        DataError: The units are of another codebook than the vocoder's, or no clip is left.
    """
    if clips < 1:
        raise ConfigError(f"{clips} clips: nothing would be heard. Ask for 1 or more.")
    speech = Speech.load(vocoder)
    base, book = with_codebook(model, codebook)
    ids = speech.ids(book)
    judged = concerned(corpus)
    units = encode_units(
        lambda: ((row.id, judged.audio(row)) for row in judged if row.split in ("dev", "test")),
        book,
        encoder=base.encoder,
        speakers={row.id: row.speaker for row in judged},
    )
    told = judged.with_utterances(tuple(row for row in judged if row.text))
    rows = held_out(told, units, speech.voices, seed, most=clips)
    if not rows:
        raise DataError(
            "No held-out clip with a text is of a voice and language that the vocoder knows; name the corpus that it "
            "was trained on, with texts."
        )
    chosen = clips_of(corpus, rows)
    kept = {row.id: ids[units[row.id]] for row in rows}
    systems = {ORIGINAL: [clip.waveform for clip in chosen]}
    for name, given in ((MADE, kept), (SHUFFLED, shuffled(kept, seed))):
        systems[name] = speak_clips(speech, rows, given, units.clock, chosen)
    data_hash = corpus.with_utterances(tuple(rows)).hash
    table: dict[str, list[Result]] = {}
    heard: dict[str, Spoken] = {}
    progress = report("Listening")
    for number, (name, waveforms) in enumerate(systems.items(), 1):
        heard[name] = score_spoken(chosen, waveforms, heard_by.judges)
        model_name = "recordings" if name == ORIGINAL else vocoder_hash(speech.vocoder)
        signature = Signature(
            data_hash=data_hash,
            model_hash=model_name,
            normalizer=NORMALIZER,
            seed=seed,
            settings=heard_by.settings,
        )
        found = spoken_results(heard[name], signature)
        table[name] = [one for one in found if name != ORIGINAL or one.name not in AGAINST_RECORDINGS]
        progress(number, len(systems), {})
    return _write(table, heard, chosen, out)


def clips_of(corpus: Corpus, rows: Sequence[Utterance]) -> list[Clip]:
    """Utterances with a text as they are judged."""
    return [
        Clip(
            name=row.id,
            waveform=corpus.audio(row),
            text=row.text or "",
            language=row.language,
            speaker=row.speaker or UNKNOWN,
        )
        for row in rows
    ]


def shuffled(units: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Units ``(T,)`` of each utterance in an order drawn by seed."""
    return {
        name: row[torch.randperm(len(row), generator=torch_generator(seed, "shuffle", name))]
        for name, row in units.items()
    }


def speak_clips(
    speech: Speech, rows: Sequence[Utterance], units: Mapping[str, Tensor], clock: FrameClock, clips: Sequence[Clip]
) -> list[Tensor]:
    """Units ``(T,)`` by id, spoken in the clips' own voices, none longer than its recording; each ``(S,)``."""
    recorded = {clip.name: clip.waveform for clip in clips}
    made = speak_rows(speech.vocoder, speech.voices, rows, units, clock, recorded)
    return [made[clip.name][: len(clip.waveform)] for clip in clips]


def _write(
    table: Mapping[str, list[Result]], heard: Mapping[str, Spoken], clips: Sequence[Clip], out: Path
) -> ResynthesisScore:
    out.mkdir(parents=True, exist_ok=True)
    every = [replace(one, name=f"{one.name}, {system}") for system, row in table.items() for one in row]
    save_results(every, out / "result.json")
    scores, transcripts = out / "scores.md", out / "transcripts.tsv"
    scores.write_text(tabulate(table).markdown(), encoding="utf-8")
    lines = ["\t".join(["id", "language", "text", *heard])]
    for number, clip in enumerate(clips):
        said = [clip.text, *(one.transcripts[number] for one in heard.values())]
        lines.append("\t".join([clip.name, clip.language, *(" ".join(text.split()) for text in said)]))
    transcripts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ResynthesisScore(rows=dict(table), transcripts=transcripts, scores=scores)
