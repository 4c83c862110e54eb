"""Claims about adding a language by LoRA: whether to, how often, on what, and what it costs the languages before.

Source: Seamless Language Expansion, arXiv:2406.14092. The base is the starter encoder; what it costs to be wrong about
kept languages is the loss of its own masked prediction on their held-out clips, under its own units and table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus, merge
from allophone.evaluate.claim import UNTRAINED, Contrast, Observation, Scale
from allophone.evaluate.forgetting import measure_masked_loss
from allophone.evaluate.measurements import Measurement
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.build import Encoder
from allophone.recipes.claims.reading import CHARACTER_ERROR, reading_errors, source_of
from allophone.recipes.claims.trial import Claim, Trial, place
from allophone.recipes.expand import KEEP, kept_corpora, portion, with_splits
from allophone.recipes.ledger import LedgerConfig, draw_rows, main_voices, spoken
from allophone.run.base import Base
from allophone.run.config import RunConfig
from allophone.run.execute import fit_threads
from allophone.run.expansion import adapt_encoder
from allophone.run.expansion_config import ExpandConfig, run_config
from allophone.run.starter import STARTER, open_base
from allophone.run.targets import aligned_units, waveforms
from allophone.seeding import derive
from allophone.units.encode import encode_units
from allophone.units.extract import FrameCache

NEW = "bul"
"""Language that most of these claims add."""
LOSS = Scale(
    measure="base_units_loss",
    title="Masked prediction of the base's units",
    unit="nats",
    factor=1.0,
    higher_is_better=False,
    explanation="Parts of a recording are hidden and the model guesses which of the base's sound units were there, "
    "with the base's own table. For a kept language: what adding another one cost.",
)
STEPS = 400
DEFAULT = ExpandConfig()
RANKS = (4, 8, 24, 64)
PAPER = "Seamless Language Expansion, arXiv:2406.14092"


@cache
def starter_base() -> Base:
    """The starter encoder with its codebook and heads."""
    base, _ = open_base(STARTER)
    fit_threads(base.encoder)
    return base


@cache
def starter_frames() -> FrameCache:
    """Frames of the starter encoder at the layer of its units, kept from arm to arm."""
    return FrameCache()


def like(seed: int, steps: int) -> tuple[RunConfig, ...]:
    """The masked-prediction run behind an arm."""
    return (run_config(starter_base(), ExpandConfig(seed=seed, steps=steps), name="iteration-1", targets="base"),)


def unchanged(trial: Trial) -> Encoder | None:
    """The base itself."""
    return starter_base().encoder


def adding(
    *languages: str, config: ExpandConfig = DEFAULT, minutes: float | None = None
) -> Callable[[Trial], Encoder | None]:
    """An arm that adds languages, one after another, each to the encoder that the one before it left.

    Args:
        languages: Which; of the corpus.
        config: How each is added; seed and updates are the trial's.
        minutes: At most so much training audio of each, drawn by seed; None = all.
    """

    def train(trial: Trial) -> Encoder | None:
        settings = replace(config, seed=trial.seed, steps=trial.steps)
        base = starter_base()
        encoder: Encoder = base.encoder
        for number, language in enumerate(languages):
            new = with_splits(trial.corpus.where(language=language), trial.seed)
            kept: Corpus | None = None
            if config.combine or config.recluster:
                for one in kept_corpora(trial.corpus, (*KEEP, *languages[:number]), new).values():
                    heard = portion(one, settings, LedgerConfig())
                    kept = heard if kept is None else merge(kept, heard)
            heard_new = main_voices(new if minutes is None else first_minutes(new, minutes, trial.seed))
            onto = replace(base, encoder=encoder)
            frames = starter_frames() if encoder is base.encoder else None
            adapted = adapt_encoder(
                onto, heard_new, kept, settings, place(trial) / language, cache=frames, report=trial.report
            )
            if adapted is None:
                return None
            encoder = adapted[0].artifact()  # type: ignore[assignment]
        return encoder

    return train


def first_minutes(corpus: Corpus, minutes: float, seed: int) -> Corpus:
    """So much of the training split, whole utterances in an order drawn by seed, and everything else."""
    seconds, chosen = 0.0, set()
    for row in sorted((r for r in corpus if r.split == "train"), key=lambda r: derive(seed, "minutes", r.id)):
        if seconds + row.duration_seconds > 60 * minutes:
            break
        seconds += row.duration_seconds
        chosen.add(row.id)
    return corpus.with_utterances(tuple(row for row in corpus if row.split != "train" or row.id in chosen))


def scoring(new: Sequence[str], kept: Sequence[str] = KEEP) -> Callable[[Trial, Encoder | None], list[Observation]]:
    """Character errors in the new languages, and the base's masked loss in new and kept ones."""

    def score(trial: Trial, encoder: Encoder | None) -> list[Observation]:
        source = source_of(trial, encoder, like(trial.seed, trial.steps)[0], stack=4)
        found = [one for language in new for one in reading_errors(trial, source, language, {language: None})]
        if encoder is not None:
            found += [base_loss(trial, encoder, language) for language in (*new, *kept)]
        return found

    return score


def base_loss(trial: Trial, encoder: Encoder, language: str) -> Observation:
    """Masked loss on held-out clips of the main voices, under the base's units, projection and table."""
    base = starter_base()
    method = base.method()
    assert method is not None and base.codebook is not None
    grafted = MaskedPrediction(encoder, method.config)
    grafted.final_proj, grafted.label_embeddings = method.final_proj, method.label_embeddings
    corpus = main_voices(trial.corpus.where(language=language))
    rows = draw_rows([row for row in corpus if row.split == "test"], trial.effort.test_clips)
    encoded = encode_units(
        waveforms(corpus, corpus.utterances),
        base.codebook,
        encoder=base.encoder,
        speakers={row.id: row.speaker for row in corpus} if base.codebook.info.normalization == "voice" else None,
        cache=starter_frames(),
    )
    units = aligned_units(encoded, corpus.utterances, base.encoder.clock, method.config.labels_per_frame)
    collate: CollateConfig = like(trial.seed, trial.steps)[0].data.collate
    found: Measurement = measure_masked_loss(
        "after",
        grafted,
        spoken(corpus, rows),
        units,
        base.encoder.clock,
        collate,
        measure="masked_loss_base_units",
        language=language,
        seed=trial.seed,
    )
    return Observation(
        arm=trial.arm,
        measure=LOSS.measure,
        condition=language,
        seed=trial.seed,
        items=found.items,
        numerators=found.numerators,
        denominators=found.denominators,
    )


def reading(name: str, arm: str, baseline: str, languages: Sequence[str] = (NEW,)) -> Contrast:
    """Two arms by their character errors in new languages."""
    measure, conditions = CHARACTER_ERROR.measure, tuple(languages)
    return Contrast(name=f"{name}, reading", arm=arm, baseline=baseline, measure=measure, conditions=conditions)


def loss(name: str, arm: str, baseline: str, languages: Sequence[str] = KEEP) -> Contrast:
    """Two arms by the base's masked loss in kept languages."""
    return Contrast(name=f"{name}, kept", arm=arm, baseline=baseline, measure=LOSS.measure, conditions=tuple(languages))


def claim(
    name: str,
    says: str,
    design: str,
    arms: Mapping[str, Callable[[Trial], Encoder | None]],
    contrasts: Sequence[Contrast],
    *,
    new: Sequence[str] = (NEW,),
) -> Claim[Encoder]:
    """A claim of this paper, with what all of them share."""
    return Claim(
        name=name,
        paper=PAPER,
        says=says,
        design=f"{design} A linear probe reads held-out clips of what was added (of voices that training heard too); "
        "kept languages are Spanish, French and Russian.",
        steps=STEPS,
        like=like,
        arms=arms,
        score=scoring(new),
        untrained=UNTRAINED,
        scales=(CHARACTER_ERROR, LOSS),
        contrasts=tuple(contrasts),
    )


ADAPTATION = claim(
    "adaptation",
    "LoRA on a new language makes its units better; a second iteration, on units of the adapted encoder, more so.",
    "Bulgarian is added to the starter encoder by one iteration of LoRA and by two, each of the same updates.",
    {
        "before": unchanged,
        "one iteration": adding(NEW),
        "two iterations": adding(NEW, config=replace(DEFAULT, iterations=2)),
    },
    [
        reading("one iteration against none", "one iteration", "before"),
        reading("two iterations against none", "two iterations", "before"),
        reading("two iterations against one", "two iterations", "one iteration"),
        loss("one iteration against none", "one iteration", "before"),
        loss("two iterations against one", "two iterations", "one iteration"),
    ],
)

PRESERVATION = claim(
    "preservation",
    "Clusters fitted on new and old languages together, and some audio of the old ones in training, each keep the old "
    "languages; together they keep them best.",
    "Bulgarian is added with neither, with one, and with both.",
    {
        "before": unchanged,
        "neither": adding(NEW, config=replace(DEFAULT, combine=False, recluster=False)),
        "re-clustering": adding(NEW, config=replace(DEFAULT, combine=False)),
        "data combination": adding(NEW, config=replace(DEFAULT, recluster=False)),
        "both": adding(NEW),
    },
    [
        loss("both against neither", "both", "neither"),
        loss("re-clustering against neither", "re-clustering", "neither"),
        loss("data combination against neither", "data combination", "neither"),
        loss("neither against before", "neither", "before"),
        loss("both against before", "both", "before"),
        reading("both against neither", "both", "neither"),
        reading("both against before", "both", "before"),
    ],
)

RANK = claim(
    "rank",
    "The paper adapts with rank 24; other ranks were not published.",
    "Bulgarian is added with LoRA of rank 4, 8, 24 and 64.",
    {"before": unchanged} | {f"rank {rank}": adding(NEW, config=replace(DEFAULT, rank=rank)) for rank in RANKS},
    [
        reading("rank 24 against 4", "rank 24", "rank 4"),
        reading("rank 24 against 8", "rank 24", "rank 8"),
        reading("rank 64 against 24", "rank 64", "rank 24"),
        loss("rank 24 against 4", "rank 24", "rank 4"),
        loss("rank 64 against 24", "rank 64", "rank 24"),
    ],
)

UNITS = claim(
    "units",
    "The paper fits 1,000 units, and compares them with 3,000, on hundreds of hours.",
    "Bulgarian is added on 64, 256 and 768 units: a step of three where the paper has one, on half an hour.",
    {"before": unchanged}
    | {f"{count} units": adding(NEW, config=replace(DEFAULT, num_units=count)) for count in (64, 256, 768)},
    [
        reading("768 units against 256", "768 units", "256 units"),
        reading("256 units against 64", "256 units", "64 units"),
        loss("768 units against 256", "768 units", "256 units"),
        loss("256 units against 64", "256 units", "64 units"),
    ],
)

AMOUNT = claim(
    "amount",
    "More audio of the new language makes adaptation better; how little is enough was not published.",
    "Bulgarian is added from 2, 5 and 10 minutes, and all of its training audio (12), with the same updates.",
    {
        "before": unchanged,
        "2 minutes": adding(NEW, minutes=2),
        "5 minutes": adding(NEW, minutes=5),
        "10 minutes": adding(NEW, minutes=10),
        "all": adding(NEW),
    },
    [
        reading("all against 2 minutes", "all", "2 minutes"),
        reading("5 minutes against 2", "5 minutes", "2 minutes"),
        reading("10 minutes against 5", "10 minutes", "5 minutes"),
        reading("all against before", "all", "before"),
        reading("2 minutes against before", "2 minutes", "before"),
        loss("all against 2 minutes", "all", "2 minutes"),
    ],
)

RELATED = claim(
    "relatedness",
    "Whether a new language that is close to the old ones costs them less was left open.",
    "Ten minutes of Italian (close to Spanish and French) or of Greek are added, without audio of the kept languages.",
    {
        "before": unchanged,
        "Italian added": adding("ita", config=replace(DEFAULT, combine=False, recluster=False), minutes=10),
        "Greek added": adding("ell", config=replace(DEFAULT, combine=False, recluster=False), minutes=10),
    },
    [
        loss("Italian against Greek, Spanish and French", "Italian added", "Greek added", ("spa", "fra")),
        loss("Italian against Greek, Russian", "Italian added", "Greek added", ("rus",)),
        loss("Italian against before, Spanish and French", "Italian added", "before", ("spa", "fra")),
        loss("Greek against before, Spanish and French", "Greek added", "before", ("spa", "fra")),
        reading("Italian added against before", "Italian added", "before", ("ita",)),
        reading("Greek added against before", "Greek added", "before", ("ell",)),
    ],
    new=("ita", "ell"),
)

SEQUENCE = claim(
    "sequence",
    "What several languages, one after another, cost those before them was left open.",
    "Bulgarian, then Greek, then Italian, then Danish are added, each to what the one before left, with audio of all "
    "languages before it; after two and after four.",
    {
        "before": unchanged,
        "two in sequence": adding("bul", "ell"),
        "four in sequence": adding("bul", "ell", "ita", "dan"),
    },
    [
        loss("four against before", "four in sequence", "before"),
        loss("two against before", "two in sequence", "before"),
        reading("four against before", "four in sequence", "before", ("bul", "ell", "ita", "dan")),
        reading("four against two, the first two", "four in sequence", "two in sequence", ("bul", "ell")),
    ],
    new=("bul", "ell", "ita", "dan"),
)

CLAIMS = (ADAPTATION, PRESERVATION, RANK, UNITS, AMOUNT, RELATED, SEQUENCE)
