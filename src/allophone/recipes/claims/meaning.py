"""Claims about teaching meaning by distillation: objective, transcribed speech, teacher, languages that are not heard.

Source: SAMU-XLS-R, arXiv:2205.08180; all of these are left open. The encoder is frozen, so that its states are computed
once for all arms and seeds; what stands behind it is trained. Letters: N recordings, M texts, E dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError
from allophone.evaluate.claim import UNTRAINED, Contrast, Observation, Scale
from allophone.evaluate.semantic_search import language_questions
from allophone.evaluate.sources import EncoderSource, FilterbankSource
from allophone.evaluate.text_retrieval import WHERE, Pool, answer, chance
from allophone.models.build import Encoder
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import load_speech_embedder
from allophone.models.text_teacher import TeacherTable, cached_vectors, load_teacher_table, text_key
from allophone.recipes.align_scores import pooled_frames
from allophone.recipes.claims.aligning import EVERY, ISOLATED, RELATED, by_language, held_out_pool
from allophone.recipes.claims.trial import Claim, Effort, Trial, place
from allophone.recipes.distill import DistillOptions, distill_config
from allophone.run.distillation import (
    Removal,
    corpus_texts,
    distilled_utterances,
    execute_distillation,
    ridge_targets,
    shared_states,
    teacher_texts,
    unit,
    what_is_removed,
)
from allophone.run.execute import fit_threads
from allophone.run.expansion import random_encoder
from allophone.run.ridge import drawn_rows, ridge_vectors
from allophone.run.starter import open_base, starter_teacher
from allophone.run.texts import Heard
from allophone.seeding import derive

PAPER = "SAMU-XLS-R, arXiv:2205.08180"
STEPS = 1_000
BEFORE = "encoder before"
OWN, OTHERS = (
    Scale(
        measure=f"found_{where.split()[0]}",
        title=f"Text in {'the spoken language' if where == 'own language' else where} among the first ten",
        unit="points",
        factor=100.0,
        higher_is_better=True,
        explanation="A recording of something that was never met in training is compared with all texts of the pool, "
        f"in all languages; right are those in {'its own language' if where == 'own language' else where} that say "
        "the same.",
    )
    for where in WHERE
)
OPTIONS = DistillOptions(train_encoder=False)
FROM_NOTHING = replace(OPTIONS, head="mlp")
SHARES = {"an eighth": 0.125, "a quarter": 0.25, "half": 0.5, "all": 1.0}
Teach = Callable[[Trial], TeacherTable]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Taught:
    """What an arm leaves: vectors of length 1 of the pool."""

    speech: Tensor
    """Shape ``(N, E)``."""
    texts: Tensor
    """Shape ``(M, E)``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bench:
    """What all arms and seeds share."""

    encoder: Encoder
    frozen: dict[str, FrozenStates]
    """What the encoder says, by the layers that are pooled; arms fill it."""
    pool: Pool
    ridges: dict[str, Taught]
    """By untrained row."""


_benches: dict[tuple[str, int, str], Bench] = {}


def bench(trial: Trial) -> Bench:
    """The base, what it says, and what is searched; made once in a process."""
    key = (trial.effort.base, trial.effort.test_clips, trial.corpus.hash)
    if key not in _benches:
        _benches.clear()  # one encoder's states at a time: they are gigabytes
        encoder = open_base(trial.effort.base)[0].encoder
        fit_threads(encoder)
        pool = held_out_pool(trial.corpus, trial.effort.test_clips)
        _benches[key] = Bench(encoder=encoder, frozen={}, pool=pool, ridges={})
    return _benches[key]


def shipped(trial: Trial) -> TeacherTable:
    """Vectors of E5 small for the starter corpus' texts."""
    return load_teacher_table(starter_teacher())


def named(trial: Trial) -> TeacherTable:
    """Vectors in the folder that the user named."""
    assert trial.effort.teacher is not None  # require_teacher has seen to it
    return load_teacher_table(trial.effort.teacher)


def require_teacher(effort: Effort, corpus: Corpus) -> None:
    """Refuse to begin without another teacher that knows all texts.

    Raises:
        ConfigError: None is named, or it lacks texts.
    """
    advice = "scripts/get_second_teacher.py writes one for the starter corpus."
    if effort.teacher is None:
        raise ConfigError(
            f"This claim needs --teacher: a folder with another text encoder's vectors of the corpus' texts. {advice}"
        )
    missing = load_teacher_table(effort.teacher).missing([text for _, text in corpus_texts(corpus)])
    if missing:
        raise ConfigError(
            f"{effort.teacher} has no vector of {len(missing)} texts of {corpus.name}, the first is {missing[0]!r}. "
            f"{advice}"
        )


def spelling(trial: Trial) -> TeacherTable:
    """A teacher that knows letters alone."""
    return cached_vectors(teacher_texts(trial.corpus), letters, "runs of three letters", place(trial) / "teacher")


def letters(texts: Sequence[str], dim: int = 384) -> Tensor:
    """How often each run of three letters occurs, at a place that its hash draws. Shape ``(len(texts), dim)``."""
    vectors = torch.zeros(len(texts), dim)
    for row, text in enumerate(texts):
        spelled = f" {text.lower()} "
        for start in range(len(spelled) - 2):
            drawn = text_key(f"<{spelled[start : start + 3]}>")
            vectors[row, drawn // 2 % dim] += 1.0 if drawn % 2 else -1.0
    return F.normalize(vectors, dim=-1)


def teaching(
    *,
    options: DistillOptions = OPTIONS,
    teacher: Teach = shipped,
    share: float = 1.0,
    without: Sequence[str] = (),
) -> Callable[[Trial], Taught | None]:
    """An arm that distils.

    Args:
        options: Objective and texts.
        teacher: Whose vectors are learned.
        share: Of the training recordings, drawn by seed; a smaller share is part of a larger one.
        without: Languages whose recordings are not heard.
    """

    def train(trial: Trial) -> Taught | None:
        shared, table = bench(trial), teacher(trial)
        # What is removed is the same in all arms, so that all search among the same texts.
        table = clean(everything(trial, table), table, options.removed)
        config = distill_config(replace(options, steps=trial.steps, removed="nothing"), table.dim, trial.seed)
        if options.layers not in shared.frozen:
            states = shared_states(shared.encoder, config)
            assert states is not None
            shared.frozen[options.layers] = states
        frozen = shared.frozen[options.layers]
        rows = [row for row in trial.corpus if row.language not in without and _is_drawn(row, share, trial.seed)]
        run = execute_distillation(
            config,
            trial.corpus.with_utterances(tuple(rows)),
            place(trial),
            encoder=shared.encoder,
            teacher=table,
            frozen=frozen,
            report=trial.report,
        )
        if run.result.stopped == "signal":
            return None
        model = load_speech_embedder(run.folder).eval()
        waveforms = map(WaveformCache(trial.corpus).get, shared.pool.utterances)
        with torch.no_grad():
            vectors = [model.pool(frozen(one[None], torch.tensor([len(one)]))) for one in waveforms]
        return Taught(speech=F.normalize(torch.cat(vectors), dim=-1), texts=_texts(shared.pool, table))

    return train


def everything(trial: Trial, table: TeacherTable) -> Heard:
    """The whole training split with its transcripts, as far as a teacher knows them."""
    return distilled_utterances(trial.corpus, distill_config(OPTIONS, table.dim, 0), table)


def clean(heard: Heard, table: TeacherTable, kind: Removal) -> TeacherTable:
    """A teacher's table less what the texts that are heard say to remove."""
    removed = what_is_removed(heard, table, kind)
    return table if removed is None else removed.off(table)


def _is_drawn(row: Utterance, share: float, seed: int) -> bool:
    return derive(seed, "share", row.id) % 10_000 < 10_000 * share


def _texts(pool: Pool, table: TeacherTable) -> Tensor:
    return unit(table, [wording for _, wording in pool.texts])


def score(trial: Trial, taught: Taught | None) -> list[Observation]:
    """Recall at 10 of texts in the spoken and in other languages, for each spoken language."""
    pool = bench(trial).pool
    if taught is None and trial.arm != "chance":
        # Random weights alone differ from seed to seed.
        name = f"{trial.arm} {trial.seed}" if trial.arm == "random encoder" else trial.arm
        ridges = bench(trial).ridges
        if name not in ridges:
            ridges[name] = _by_ridge(trial)
        taught = ridges[name]
    found: list[Observation] = []
    for asked in language_questions(pool):
        if asked.pair is None or asked.pair[0] != "all":
            continue
        spoken = [pool.utterances[place].language for place in asked.queries.tolist()]
        names = [pool.utterances[place].id for place in asked.queries.tolist()]
        ranked = chance(asked) if taught is None else answer(asked, taught.speech, taught.texts, trial.seed)
        scale = OWN if asked.pair[1] == WHERE[0] else OTHERS
        found += by_language(trial, scale, spoken, names, ranked.recall[10])
    return found


def _by_ridge(trial: Trial) -> Taught:
    """A ridge regression from pooled frames to the shipped teacher, fitted on the training recordings."""
    shared, table = bench(trial), shipped(trial)
    heard = everything(trial, table)
    known = clean(heard, table, OPTIONS.removed)
    rows = drawn_rows(heard.corpus, 0)
    source, told = _source(trial, shared), trial.report(trial.arm)
    fitted, asked = (
        pooled_frames(WaveformCache(corpus), wanted, source, told)
        for corpus, wanted in ((heard.corpus, rows), (trial.corpus, shared.pool.utterances))
    )
    return Taught(
        speech=ridge_vectors(fitted, ridge_targets(known, heard, rows), asked), texts=_texts(shared.pool, known)
    )


def _source(trial: Trial, shared: Bench) -> EncoderSource | FilterbankSource:
    if trial.arm == "filter bank":
        return FilterbankSource.near(shared.encoder.clock.rate)
    encoder = shared.encoder if trial.arm == BEFORE else random_encoder(shared.encoder, trial.seed)
    return EncoderSource(trial.arm, encoder, (encoder.num_layers,))


def finding(name: str, arm: str, baseline: str, languages: Sequence[str] = EVERY) -> tuple[Contrast, ...]:
    """Two arms by how often a right text is found, in the spoken language and in others."""
    return tuple(
        Contrast(
            name=f"{name}: {where}", arm=arm, baseline=baseline, measure=scale.measure, conditions=tuple(languages)
        )
        for where, scale in zip(WHERE, (OWN, OTHERS), strict=True)
    )


def claim(
    name: str,
    says: str,
    design: str,
    arms: Mapping[str, Callable[[Trial], Taught | None]],
    contrasts: Sequence[tuple[Contrast, ...]],
    check: Callable[[Effort, Corpus], None] = lambda *_: None,
) -> Claim[Taught]:
    """A claim about distillation, with what all of them share."""
    return Claim(
        name=name,
        paper=PAPER,
        says=says,
        design=f"{design} The encoder (--base) is frozen; learned is what stands behind it, with the same updates in "
        "every arm. Scored on contents that no arm met. Rows that are not trained are mapped to the shipped teacher's "
        "vectors by a ridge regression, fitted on up to 3,000 training recordings. What tells languages apart in the "
        "teacher's vectors of the whole training split is taken off them, in every arm that does not say otherwise.",
        steps=STEPS,
        like=None,
        arms=arms,
        score=score,
        untrained=(*UNTRAINED, BEFORE),
        scales=(OWN, OTHERS),
        contrasts=tuple(one for found in contrasts for one in found),
        check=check,
        revision=2,  # 1: heads from nothing
    )


OBJECTIVE = claim(
    "distill-objective",
    "The published objective is the cosine to the transcript's vector alone, of the last layer; its successors add "
    "contrast with other texts and with those that are nearly right, and a learned mean of layers.",
    "The cosine alone, as published (frames scored by one vector, one layer and tanh behind); with contrast (frames "
    "scored by a hidden layer, two layers behind); that over a learned mean of all layers; that with texts in all "
    "languages that the corpus speaks; and contrast from where a ridge regression ends (mean and deviation of frames, "
    "as in the rows that are not trained).",
    {
        "cosine alone": teaching(options=replace(OPTIONS, objective="samu")),
        "contrast": teaching(options=FROM_NOTHING),
        "learned mean of layers": teaching(options=replace(FROM_NOTHING, layers="weighted")),
        "texts of all languages": teaching(options=replace(FROM_NOTHING, texts="all")),
        "contrast from a ridge regression": teaching(),
    },
    [
        finding("contrast against the cosine alone", "contrast", "cosine alone"),
        finding("contrast against the encoder before", "contrast", BEFORE),
        finding("from a ridge regression against it", "contrast from a ridge regression", BEFORE),
        finding("from a ridge regression against from nothing", "contrast from a ridge regression", "contrast"),
        finding("learned mean of layers against the last", "learned mean of layers", "contrast"),
        finding("texts of all languages against transcripts", "texts of all languages", "contrast"),
    ],
)

AMOUNT = claim(
    "distill-amount",
    "How much transcribed speech distillation needs is left open.",
    "An eighth, a quarter, half and all of the training recordings.",
    {name: teaching(share=share) for name, share in SHARES.items()},
    [
        finding("all against half", "all", "half"),
        finding("half against a quarter", "half", "a quarter"),
        finding("a quarter against an eighth", "a quarter", "an eighth"),
        finding("an eighth against the encoder before, fitted to all", "an eighth", BEFORE),
    ],
)

TEACHER = claim(
    "distill-teacher",
    "The paper takes LaBSE, ports take BGE-M3; whether the teacher matters is left open.",
    "E5 small less its mean and what tells languages apart, less its mean alone, and as it is; another text encoder "
    "(--teacher); and a teacher that knows letters alone. Each is searched with its own vectors.",
    {
        "E5": teaching(),
        "E5 less its mean": teaching(options=replace(OPTIONS, removed="mean")),
        "E5 as it is": teaching(options=replace(OPTIONS, removed="nothing")),
        "another teacher": teaching(teacher=named),
        "letters alone": teaching(teacher=spelling),
    },
    [
        finding("E5 against letters alone", "E5", "letters alone"),
        finding("E5 against another teacher", "E5", "another teacher"),
        finding("without what tells languages apart against with it", "E5", "E5 less its mean"),
        finding("less its mean against as it is", "E5 less its mean", "E5 as it is"),
    ],
    check=require_teacher,
)

UNHEARD = claim(
    "distill-unheard",
    "A language that was not heard in distillation is understood through its relatives.",
    "Catalan (beside Spanish, French and Italian) and Greek (without relatives) are left out of the distillation, or "
    "not.",
    {"both heard": teaching(), "neither heard": teaching(without=(RELATED, ISOLATED))},
    [
        finding(
            "Catalan not heard, against random weights fitted to it", "neither heard", "random encoder", (RELATED,)
        ),
        finding("Greek not heard, against random weights fitted to it", "neither heard", "random encoder", (ISOLATED,)),
        finding("Catalan heard against not", "both heard", "neither heard", (RELATED,)),
        finding("Greek heard against not", "both heard", "neither heard", (ISOLATED,)),
    ],
)

CLAIMS = (OBJECTIVE, AMOUNT, TEACHER, UNHEARD)
