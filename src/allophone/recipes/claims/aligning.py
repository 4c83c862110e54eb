"""Claims about audio and text in one space: augmentation, many languages against one, relatives, drift.

Source: CLARA, arXiv:2310.11830, whose paper and code leave all of them open. The text tower is made from nothing, so
that nothing has to be downloaded; it knows the words of the corpus alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.errors import DataError
from allophone.evaluate.claim import Contrast, Observation, Scale
from allophone.evaluate.text_retrieval import Pool, Question, answer, build_pool, chance, questions
from allophone.models.aligned import load_aligned
from allophone.models.build import Encoder, build_encoder
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig
from allophone.recipes.align import AUDIO_AUGMENTATION, augmented, small, spoken_languages, unheard_pool
from allophone.recipes.align_scores import embedded
from allophone.recipes.claims import adding
from allophone.recipes.claims.trial import Claim, Trial, place
from allophone.recipes.ledger import draw_rows
from allophone.run.alignment import AlignConfig, execute_alignment
from allophone.seeding import derive

PAPER = "CLARA, arXiv:2310.11830"
STEPS = 400
FOUND = Scale(
    measure="found_at_10",
    title="Right text among the first ten",
    unit="points",
    factor=100.0,
    higher_is_better=True,
    explanation="A recording of something that was never met in training is compared with all texts of the pool; "
    "found means that one which says the same is among the ten most alike.",
)
ALIGNMENT = Scale(
    measure="alignment",
    title="Distance of a recording to its texts",
    unit="hundredths",
    factor=100.0,
    higher_is_better=False,
    explanation="Squared; vectors have length 1, so 0 is the same place and 200 hundredths are at right angles.",
)
CROWDING = Scale(
    measure="crowding",
    title="How close recordings lie to all others",
    unit="hundredths",
    factor=100.0,
    higher_is_better=False,
    explanation="Mean of exp(-2 d squared); 100 hundredths: all recordings lie in one place, the space has collapsed.",
)
EVERY = ("bul_Cyrl", "ell_Grek", "eng_Latn", "fra_Latn", "ita_Latn", "rus_Cyrl", "spa_Latn")
"""Languages with at least a hundred held-out recordings in the starter corpus."""
RELATED, ISOLATED = "cat_Latn", "ell_Grek"
Change = Callable[[AlignConfig], AlignConfig]


def aligning(
    change: Change = lambda config: config,
    *,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    share: float = 1.0,
) -> Callable[[Trial], Encoder | None]:
    """An arm that aligns the starter encoder with texts of all spoken languages.

    Args:
        change: What is different in its config.
        only: Languages whose recordings are heard; empty = all.
        without: Languages whose recordings are not.
        share: Of the trial's updates.
    """

    def train(trial: Trial) -> Encoder | None:
        rows = [row for row in trial.corpus if row.language not in without and (not only or row.language in only)]
        config = small(spoken_languages(trial.corpus), from_nothing=True, seed=trial.seed)
        steps = max(1, round(share * trial.steps))
        train = replace(config.train, steps=steps, warmup_steps=min(config.train.warmup_steps, steps // 10))
        trained = execute_alignment(
            change(replace(config, train=train)),
            trial.corpus.with_utterances(tuple(rows)),
            place(trial),
            encoder=copy.deepcopy(adding.starter_base().encoder),
            report=trial.report,
        )
        return None if trained.result.stopped == "signal" else load_aligned(trained.folder).speech.encoder

    return train


def score(trial: Trial, encoder: Encoder | None) -> list[Observation]:
    """Recall at 10 of the right text for each spoken language, and the geometry of the space."""
    pool = held_out_pool(trial.corpus, trial.effort.test_clips)
    asked = next(one for one in questions(pool, pairs=False) if one.direction == "speech to text")
    spoken = [pool.utterances[place].language for place in asked.queries.tolist()]
    names = [pool.utterances[place].id for place in asked.queries.tolist()]
    if trial.arm == "chance":
        return by_language(trial, FOUND, spoken, names, chance(asked).recall[10])
    speech, texts = _vectors(trial, pool, encoder)
    found = by_language(trial, FOUND, spoken, names, answer(asked, speech, texts, trial.seed).recall[10])
    distance, crowding = geometry(speech[asked.queries], texts, asked)
    found += by_language(trial, ALIGNMENT, spoken, names, distance)
    return found + by_language(trial, CROWDING, spoken, names, crowding)


def held_out_pool(corpus: Corpus, most: int) -> Pool:
    """At most so many recordings of each language whose contents training never met, with all their texts.

    Raises:
        DataError: There are none.
    """
    languages = spoken_languages(corpus)
    pool = unheard_pool(corpus, languages)
    if pool is None:
        raise DataError(f"{corpus.name}: no content is held out, so there is nothing to find.")
    rows = [
        row
        for language in pool.spoken
        for row in draw_rows([one for one in pool.utterances if one.language == language], most)
    ]
    return build_pool(rows, languages)


def geometry(speech: Tensor, texts: Tensor, asked: Question) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean squared distance of each recording to its texts, and mean of exp(-2 d squared) to the other recordings.

    Args:
        speech: Vectors of length 1 of the queries. Shape ``(Q, E)``.
        texts: Vectors of length 1. Shape ``(M, E)``.
        asked: Says which texts are right.

    Returns:
        Two of shape ``(Q,)``.
    """
    distances = (2 - 2 * speech.double() @ texts.double().T).clamp_min(0)
    right = asked.right.double()
    alignment = (distances * right).sum(dim=1) / right.sum(dim=1)
    kernel = torch.exp(-2 * (2 - 2 * speech.double() @ speech.double().T).clamp_min(0))
    crowding = (kernel.sum(dim=1) - 1.0) / max(1, len(speech) - 1)
    return alignment.numpy(), crowding.numpy()


def _vectors(trial: Trial, pool: Pool, encoder: Encoder | None) -> tuple[Tensor, Tensor]:
    """Vectors of length 1 of the pool's recordings and texts; random ones for the row of random weights."""
    cache = WaveformCache(trial.corpus)
    if encoder is not None:
        towers = load_aligned(place(trial) / "model")
        texts = towers.embed_texts([wording for _, wording in pool.texts])
        return embedded(cache, pool.utterances, towers.embed_speech, trial.report("Aligned")), texts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(trial.seed, "random encoder"))
        speech = SpeechEmbedder(build_encoder(adding.starter_base().encoder.config), SpeechEmbedderConfig(dim=256))
        texts = F.normalize(torch.randn(len(pool.texts), 256), dim=-1)
    vectors = embedded(cache, pool.utterances, speech.eval().embed, trial.report("Random encoder"))
    return F.normalize(vectors, dim=-1), texts


def by_language(
    trial: Trial,
    scale: Scale,
    spoken: Sequence[str],
    names: Sequence[str],
    values: NDArray[np.float64],
    counts: NDArray[np.float64] | None = None,
) -> list[Observation]:
    """One observation for each spoken language.

    Args:
        trial: Whose arm was scored.
        scale: Of the values.
        spoken: Language of each recording.
        names: Its id.
        values: What was counted in it. Shape ``(N,)``.
        counts: Out of how many. Shape ``(N,)``; None = one each.
    """
    found = []
    counts = np.ones(len(values)) if counts is None else counts
    for language in sorted(set(spoken)):
        inside = [place for place, one in enumerate(spoken) if one == language]
        found.append(
            Observation(
                arm=trial.arm,
                measure=scale.measure,
                condition=language,
                seed=trial.seed,
                items=tuple(names[place] for place in inside),
                numerators=values[inside].astype(np.float64),
                denominators=counts[inside],
            )
        )
    return found


def finding(name: str, arm: str, baseline: str, languages: Sequence[str] = EVERY) -> Contrast:
    """Two arms by how often the right text is found."""
    return Contrast(name=name, arm=arm, baseline=baseline, measure=FOUND.measure, conditions=tuple(languages))


def claim(
    name: str,
    says: str,
    design: str,
    arms: Mapping[str, Callable[[Trial], Encoder | None]],
    contrasts: Sequence[Contrast],
) -> Claim:
    """A claim of this paper, with what all of them share."""
    return Claim(
        name=name,
        paper=PAPER,
        says=says,
        design=f"{design} The starter encoder and a small text tower from nothing, contrast of recordings with "
        "transcripts and translations, all arms with the same updates unless they say otherwise; scored on contents "
        "that no arm met.",
        steps=STEPS,
        like=adding.like,
        arms=arms,
        score=score,
        untrained=("chance", "random encoder"),
        scales=(FOUND, ALIGNMENT, CROWDING),
        contrasts=tuple(contrasts),
    )


def _with(*parts: str) -> Change:
    return lambda config: augmented(config, parts)


def _texts(*parts: str) -> Change:
    return lambda config: augmented(config, (), parts)


PARTS = ("reverb", *AUDIO_AUGMENTATION)

AUGMENTATION = claim(
    "align-augmentation",
    "The paper augments audio and texts; no ablation was published, and its code has no augmentation switched on.",
    "Each part by itself: noise, reverberation, SpecAugment, gain and speed are added; paraphrase and other languages, "
    "which are on in all other arms, are taken away.",
    {
        "plain": aligning(),
        **{part: aligning(_with(part)) for part in PARTS},
        "all of the audio": aligning(_with(*PARTS)),
        "no paraphrase": aligning(_texts("languages")),
        "spoken language only": aligning(_texts("paraphrase")),
    },
    [
        finding("all of the audio's parts against none", "all of the audio", "plain"),
        *(finding(f"{part} against none", part, "plain") for part in PARTS),
        finding("paraphrase against none", "plain", "no paraphrase"),
        finding("texts in other languages against the spoken one", "plain", "spoken language only"),
    ],
)

MULTILINGUAL = claim(
    "align-multilingual",
    "Training on many languages carries over to a language that was left out of it better than training on one.",
    "Recordings of Catalan and Greek are heard by no arm (their texts are read): training hears French alone, or "
    "French, Spanish, Italian and Russian.",
    {
        "French alone": aligning(only=("fra_Latn",)),
        "four languages": aligning(only=("fra_Latn", "spa_Latn", "ita_Latn", "rus_Cyrl")),
    },
    [
        finding("four against one, languages not heard", "four languages", "French alone", (RELATED, ISOLATED)),
        finding("four against one, Catalan", "four languages", "French alone", (RELATED,)),
        finding("four against one, Greek", "four languages", "French alone", (ISOLATED,)),
        finding("four against one, French itself", "four languages", "French alone", ("fra_Latn",)),
        finding("four against random, languages not heard", "four languages", "random encoder", (RELATED, ISOLATED)),
    ],
)

TRANSFER = claim(
    "align-transfer",
    "An isolated language profits less from the others than one with relatives among them (published: Georgian).",
    "Catalan (beside Spanish, French and Italian) and Greek (without relatives) are left out of training, or not.",
    {"both heard": aligning(), "neither heard": aligning(without=(RELATED, ISOLATED))},
    [
        finding("Catalan not heard, against random", "neither heard", "random encoder", (RELATED,)),
        finding("Greek not heard, against random", "neither heard", "random encoder", (ISOLATED,)),
        finding("Catalan heard against not", "both heard", "neither heard", (RELATED,)),
        finding("Greek heard against not", "both heard", "neither heard", (ISOLATED,)),
    ],
)


def _growing(scale: Scale, arm: str, baseline: str) -> Contrast:
    name = f"{scale.title.lower()}, {arm} against {baseline}"
    return Contrast(name=name, arm=arm, baseline=baseline, measure=scale.measure, conditions=EVERY)


DRIFT = claim(
    "align-drift",
    "How alignment of pairs and the spread of the space move over training, and whether it collapses, is left open.",
    "Trainings of a quarter, half and all of the updates, each with a schedule of its own.",
    {"a quarter": aligning(share=0.25), "half": aligning(share=0.5), "all": aligning()},
    [
        finding("all against a quarter", "all", "a quarter"),
        *(_growing(scale, "all", "a quarter") for scale in (ALIGNMENT, CROWDING)),
        *(_growing(scale, "all", "half") for scale in (ALIGNMENT, CROWDING)),
        *(_growing(scale, "a quarter", "random encoder") for scale in (ALIGNMENT, CROWDING)),
    ],
)

CLAIMS = (AUGMENTATION, MULTILINGUAL, TRANSFER, DRIFT)
