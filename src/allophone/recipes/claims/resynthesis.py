"""What adding a language does to speech that is made of units, in the new language and in the kept ones.

Source: Seamless Language Expansion, arXiv:2406.14092, which trains a HiFi-GAN for each tokenizer and scores
transcripts. Here each tokenizer is spoken by a probe (:mod:`allophone.evaluate.speaking_probe`) of one budget,
because a HiFi-GAN of the published length wants days each. The paper measures forgetting by the old centroids on
the new encoder. Here a speaker of its own first undoes what the old one misreads, new centroids then undo the drift of
the codebook, and what they leave against new centroids on the old encoder is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from safetensors.torch import load_file, save_file
from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.evaluate.claim import Contrast, Observation, Scale, load_observations, save_observations
from allophone.evaluate.speaking_probe import SpeakingProbe, SpeakingProbeConfig, Voiced, train_speaking_probe
from allophone.evaluate.spoken import Clip, Spoken, score_spoken
from allophone.models.build import Encoder
from allophone.nn.codebook import Codebook
from allophone.recipes.claims import adding
from allophone.recipes.claims.trial import Claim, Trial, place
from allophone.recipes.expand import KEEP
from allophone.recipes.ledger import draw_rows
from allophone.recipes.resynthesis_score import clips_of, open_judges, shuffled
from allophone.run.progress import counted
from allophone.run.targets import subset, waveforms
from allophone.units.encode import Units, encode_units
from allophone.units.extract import FrameCache
from allophone.units.fit import fit_codebook
from allophone.units.recluster import frozen, recluster

NEW, RECORDINGS, BEFORE, NEW_UNITS = "ita", "recordings", "before", "before, new units"
KEPT = KEEP[:2]
"""Spanish and French; every further language costs as much again."""
FIT_HOURS = 0.5
"""Audio that units are fitted on, evenly over languages."""
PROTECTED = adding.DEFAULT
UNPROTECTED = replace(adding.DEFAULT, combine=False, recluster=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A tokenizer and who speaks its units."""

    added: Literal["no", "protected", "unprotected"]
    """Encoder: the base, or one that Italian was added to, with or without audio of the kept languages."""
    units: Literal["old", "anchored", "new"]
    """The base's centroids as they are, its ids where their frames lie now, or clusters of all three languages."""
    spoken_by: str | None = None
    """Arm whose probe speaks; None = one of its own."""
    shuffled: bool = False
    """In random order."""


ARMS = {
    BEFORE: Arm(added="no", units="old"),
    "before, shuffled units": Arm(added="no", units="old", spoken_by=BEFORE, shuffled=True),
    NEW_UNITS: Arm(added="no", units="new"),
    "added": Arm(added="protected", units="new"),
    "added, anchored": Arm(added="protected", units="anchored"),
    "added, anchored, old speaker": Arm(added="protected", units="anchored", spoken_by=BEFORE),
    "added unprotected": Arm(added="unprotected", units="new"),
    "added unprotected, old units": Arm(added="unprotected", units="old"),
    "added unprotected, old units and speaker": Arm(added="unprotected", units="old", spoken_by=BEFORE),
}


def train(trial: Trial) -> Encoder | None:
    """The arm's encoder, trained or as an arm before it left it; its units and the probe that speaks them beside it."""
    arm = ARMS[trial.arm]
    encoder = _encoder(trial, arm)
    if encoder is None:
        return None
    book = _codebook(trial, arm, encoder)
    if arm.spoken_by is None:
        _probe(trial, encoder, book)
    return encoder


def _encoder(trial: Trial, arm: Arm) -> Encoder | None:
    """Arms with the same encoder share a folder."""
    if arm.added == "no":
        return adding.starter_base().encoder
    config = PROTECTED if arm.added == "protected" else UNPROTECTED
    return adding.adding(NEW, config=config)(replace(trial, arm=f"encoder {arm.added}"))


def _codebook(trial: Trial, arm: Arm, encoder: Encoder) -> Codebook:
    """Units of the arm, from disk where they lie there."""
    old = adding.starter_base().codebook
    assert old is not None
    if arm.units == "old":
        return old if arm.added == "no" else frozen(old, encoder)
    folder = place(trial, f"encoder {arm.added}") / f"{arm.units} units"
    if (folder / "codebook.json").exists():
        return Codebook.load(folder)
    heard = voices(trial.corpus)
    rows = subset([row for row in heard if row.split == "train"], FIT_HOURS, trial.seed)
    speakers = {row.id: row.speaker for row in rows} if old.info.normalization == "voice" else None
    stream, progress = waveforms(heard, rows), counted(trial.report("Units"))
    if arm.units == "new":
        book = fit_codebook(
            stream,
            "model",
            old.info.num_units,
            seed=trial.seed,
            encoder=encoder,
            layer=old.info.layer,
            normalization=old.info.normalization,
            speakers=speakers,
            cache=FrameCache(),
            progress=progress,
        )
    else:
        book = recluster(
            stream,
            old,
            encoder=encoder,
            parent_encoder=adding.starter_base().encoder,
            new_units=0,
            seed=trial.seed,
            anchored_on={row.id for row in rows if not row.language.startswith(NEW)},
            speakers=speakers,
            cache=FrameCache(),
            parent_cache=FrameCache(),
            progress=progress,
        )
    folder.mkdir(parents=True, exist_ok=True)
    book.save(folder)
    return book


def voices(corpus: Corpus) -> Corpus:
    """Of each language the one voice that is heard longest in training."""
    rows: list[Utterance] = []
    for language in (NEW, *KEPT):
        own = corpus.where(language=language)
        seconds: dict[str | None, float] = {}
        for row in own:
            if row.split == "train":
                seconds[row.speaker] = seconds.get(row.speaker, 0.0) + row.duration_seconds
        voice = max(seconds, key=lambda name: (seconds[name], str(name)))
        rows += [row for row in own if row.speaker == voice]
    return corpus.with_utterances(tuple(rows))


def _units(corpus: Corpus, rows: list[Utterance], encoder: Encoder, book: Codebook) -> Units:
    speakers = {row.id: row.speaker for row in rows} if book.info.normalization == "voice" else None
    return encode_units(waveforms(corpus, rows), book, encoder=encoder, speakers=speakers, cache=FrameCache())


def _settings(trial: Trial) -> SpeakingProbeConfig:
    return SpeakingProbeConfig(seed=trial.seed, steps=trial.effort.probe_steps)


def _rows_of_voices(corpus: Corpus) -> dict[str | None, int]:
    return {name: number for number, name in enumerate(sorted({row.speaker for row in corpus}, key=str))}


def _probe(trial: Trial, encoder: Encoder, book: Codebook) -> None:
    """Train the arm's probe into its folder."""
    file = place(trial) / "probe.safetensors"
    if file.exists():
        return
    heard = voices(trial.corpus)
    rows = [
        row
        for language in (NEW, *KEPT)
        for row in draw_rows(
            [one for one in heard.where(language=language) if one.split == "train"], trial.effort.train_clips
        )
    ]
    units, table = _units(heard, rows, encoder, book), _rows_of_voices(heard)
    probe = train_speaking_probe(
        [Voiced(waveform=heard.audio(row), units=units[row.id], voice=table[row.speaker]) for row in rows],
        num_units=book.info.num_units,
        voices=len(table),
        clock=book.info.clock,
        config=_settings(trial),
        progress=trial.report("Learning to speak the units"),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_name(f".{file.name}")
    save_file(probe.state_dict(), partial_file)
    partial_file.replace(file)


def _speak(trial: Trial, encoder: Encoder, rows: list[Utterance]) -> list[Tensor]:
    """Units of clips ``(S,)`` in the arm's tokenizer, spoken by its probe; each as long as its clip or shorter."""
    arm, heard = ARMS[trial.arm], voices(trial.corpus)
    book, table = _codebook(trial, arm, encoder), _rows_of_voices(heard)
    probe = SpeakingProbe(book.info.num_units, len(table), book.info.clock, _settings(trial))
    probe.load_state_dict(load_file(place(trial, arm.spoken_by) / "probe.safetensors"))
    units: Mapping[str, Tensor] = _units(heard, rows, encoder, book)
    if arm.shuffled:
        units = shuffled({row.id: units[row.id] for row in rows}, trial.seed)
    made = [probe.eval().speak(units[row.id], table[row.speaker]) for row in rows]
    return [wave[: len(heard.audio(row))] for wave, row in zip(made, rows, strict=True)]


def score(trial: Trial, encoder: Encoder | None) -> list[Observation]:
    """What judges hear of held-out clips; of the recordings once for all seeds."""
    known = trial.out / "recordings.parquet"
    if encoder is None and known.exists():
        return [replace(one, seed=trial.seed) for one in load_observations(known)]
    heard, found = voices(trial.corpus), []
    judges = open_judges(trial.effort.transcriber, None if trial.effort.mos is None else Path(trial.effort.mos)).judges
    for language in (NEW, *KEPT):
        held_out = [row for row in heard.where(language=language) if row.split == "test" and row.text]
        rows = draw_rows(held_out, trial.effort.test_clips)
        clips = clips_of(heard, rows)
        made = [clip.waveform for clip in clips] if encoder is None else _speak(trial, encoder, rows)
        found += observations(trial, language, clips, score_spoken(clips, made, judges))
    if encoder is None:
        known.parent.mkdir(parents=True, exist_ok=True)
        save_observations(found, known)
    return found


def observations(trial: Trial, language: str, clips: list[Clip], scores: Spoken) -> list[Observation]:
    """Scores of one language, clip by clip; recordings are not compared with themselves."""
    ones = np.ones(len(clips))
    measured: dict[str, tuple[ArrayLike, ArrayLike]] = {
        CHARACTERS.measure: (scores.characters.errors, scores.characters.lengths),
        WORDS.measure: (scores.words.errors, scores.words.lengths),
    }
    if scores.mos is not None:
        measured[MOS.measure] = (scores.mos, ones)
    if trial.arm != RECORDINGS:
        measured[VOICING.measure] = scores.voicing
        if scores.pitch[1].sum():  # no melody where nothing that was made has a voice
            measured[PITCH.measure] = scores.pitch
    return [
        Observation(
            arm=trial.arm,
            measure=measure,
            condition=language,
            seed=trial.seed,
            items=tuple(clip.name for clip in clips),
            numerators=np.asarray(numerators, dtype=np.float64),
            denominators=np.asarray(denominators, dtype=np.float64),
        )
        for measure, (numerators, denominators) in measured.items()
    ]


CHARACTERS = Scale(
    measure="heard_characters",
    title="Character error of a recognizer",
    unit="points",
    factor=100.0,
    higher_is_better=False,
    explanation="Recordings become units and speech again, and a recognizer that knows nothing of units writes down "
    "what it hears. Share of letters that are wrong.",
)
WORDS = replace(
    CHARACTERS,
    measure="heard_words",
    title="Word error of a recognizer",
    explanation="The same, share of words.",
)
MOS = Scale(
    measure="mos",
    title="Predicted opinion",
    unit="of 5",
    factor=1.0,
    higher_is_better=True,
    explanation="How good the speech would sound to people, as a network guesses it; 5 is best.",
)
PITCH = Scale(
    measure="pitch_error",
    title="Pitch error",
    unit="semitones²",
    factor=1.0,
    higher_is_better=False,
    explanation="Squared distance of the melody from that of the recording, where both have a voice.",
)
VOICING = Scale(
    measure="voicing_error",
    title="Voicing error",
    unit="points",
    factor=100.0,
    higher_is_better=False,
    explanation="Moments with a voice in only one of recording and speech.",
)


def contrast(name: str, arm: str, baseline: str, conditions: tuple[str, ...], scale: Scale = CHARACTERS) -> Contrast:
    """Two arms under some languages."""
    return Contrast(name=name, arm=arm, baseline=baseline, measure=scale.measure, conditions=conditions)


OLD_SPEAKER, UNPROTECTED_OLD = "added, anchored, old speaker", "added unprotected, old units and speaker"
UNPROTECTED_UNITS = "added unprotected, old units"
RESYNTHESIS: Claim[Encoder] = Claim(
    name="resynthesis",
    paper=adding.PAPER,
    says="Speech made of units of a new language is understood better after adaptation. The old languages suffer where "
    "nothing protects them, and clusters fitted anew repair it.",
    design="Italian is added to the starter encoder with and without audio of the kept languages. Every tokenizer is "
    "spoken by a probe of the same size, audio and updates, in one voice a language; held-out prompts are transcribed. "
    "Old units on the new encoder, spoken by the old probe, show drift and loss together; a probe of their own, then "
    "new units, undo drift. What is lost is seen against new units on the encoder before: they are fitted to the three "
    "voices that are heard, and alone make these clearer.",
    steps=adding.STEPS,
    like=adding.like,
    arms=dict.fromkeys(ARMS, train),
    score=score,
    untrained=(RECORDINGS,),
    scales=(CHARACTERS, WORDS, MOS, PITCH, VOICING),
    contrasts=(
        contrast("added against before, Italian", "added", BEFORE, (NEW,)),
        contrast("new units alone against before, Italian", NEW_UNITS, BEFORE, (NEW,)),
        contrast("added against new units alone, Italian", "added", NEW_UNITS, (NEW,)),
        contrast("added against before, kept", "added", BEFORE, KEPT),
        contrast("added, loss, kept", "added", NEW_UNITS, KEPT),
        contrast("unprotected, drift and loss, kept", UNPROTECTED_OLD, BEFORE, KEPT),
        contrast("unprotected, what a speaker of its own undoes, kept", UNPROTECTED_UNITS, UNPROTECTED_OLD, KEPT),
        contrast("unprotected, what new units undo, kept", "added unprotected", UNPROTECTED_UNITS, KEPT),
        contrast("unprotected, loss, kept", "added unprotected", NEW_UNITS, KEPT),
        contrast("anchored: old speaker against one of its own, kept", OLD_SPEAKER, "added, anchored", KEPT),
        contrast("before against shuffled units, Italian", BEFORE, "before, shuffled units", (NEW,)),
    ),
    revision=2,  # anchored units follow the drift of their frames
)
