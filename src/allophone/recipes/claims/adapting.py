"""Claim about what of an encoder a translator should train: nothing, adapters of several sizes, or all.

Source: arXiv:2306.00789 keeps encoder and decoder and trains adapters of 75 M parameters; neither their size nor full
fine-tuning is compared. The decoder is made from nothing here (none can be shipped), so it is trained in every arm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.errors import DataError
from allophone.evaluate.claim import Contrast, Observation, Scale
from allophone.losses.sequence import smoothed_cross_entropy
from allophone.models.speech_translator import SpeechTranslator, SpeechTranslatorConfig, load_speech_translator
from allophone.recipes.align import spoken_languages, unheard_pool
from allophone.recipes.claims.aligning import by_language
from allophone.recipes.claims.trial import Claim, Trial, place
from allophone.recipes.ledger import draw_rows
from allophone.recipes.translate import TranslateOptions, translate_config
from allophone.run.execute import fit_threads
from allophone.run.expansion import random_encoder
from allophone.run.starter import open_base
from allophone.run.translation import NewDecoder, execute_translation, shared_states

INTO = "eng_Latn"
SPOKEN = ("bul_Cyrl", "ell_Grek", "fra_Latn", "ita_Latn", "rus_Cyrl", "spa_Latn")
"""Languages with at least a hundred held-out recordings that have an English text in the starter corpus."""
TEXT_LOSS = Scale(
    measure="text_loss",
    title="Surprise at the right English text",
    unit="nats",
    factor=1.0,
    higher_is_better=False,
    explanation="How improbable the translator finds each next piece of the right text, given the recording and the "
    "pieces before. Of sentences that training never met.",
)
SIZES = (16, 64, 256)
MOST_TOKENS = 64
"""Longer texts are cut."""


def translating(
    training: SpeechTranslatorConfig, *, random: bool = False
) -> Callable[[Trial], SpeechTranslator | None]:
    """An arm that trains a translator into English.

    Args:
        training: What of the encoder is trained.
        random: Begin with random weights in place of the base's.
    """

    def train(trial: Trial) -> SpeechTranslator | None:
        config = translate_config(TranslateOptions(steps=trial.steps), (INTO,), trial.seed, None)
        length_layers = config.translator.length_layers
        config = replace(config, translator=replace(training, length_layers=length_layers))
        base = open_base(trial.effort.base)[0].encoder
        fit_threads(base)
        encoder = random_encoder(base, trial.seed) if random else base
        run = execute_translation(
            config,
            trial.corpus,
            place(trial),
            encoder=encoder,
            frozen=shared_states(encoder, config),
            report=trial.report,
        )
        return None if run.result.stopped == "signal" else load_speech_translator(run.folder).eval()

    return train


def score(trial: Trial, translator: SpeechTranslator | None) -> list[Observation]:
    """Loss of the right text, for each spoken language."""
    cache, pool = WaveformCache(trial.corpus), unheard_pool(trial.corpus, spoken_languages(trial.corpus))
    known = () if pool is None else pool.utterances
    rows = [row for language in SPOKEN for row in unmet_recordings(trial, known, language)]
    if translator is None:  # each piece as probable as the others
        counted = [(math.log(NewDecoder().tokens), 1.0)] * len(rows)
    else:
        counted = [text_loss(translator, cache.get(row), row.translations[INTO]) for row in rows]
    losses, tokens = np.array(counted, dtype=np.float64).T
    spoken, names = [row.language for row in rows], [row.id for row in rows]
    return by_language(trial, TEXT_LOSS, spoken, names, losses, tokens)


def unmet_recordings(trial: Trial, held_out: Sequence[Utterance], language: str) -> list[Utterance]:
    """Some of the held-out recordings in a language that have an English text.

    Raises:
        DataError: There are none.
    """
    rows = [row for row in held_out if row.language == language and INTO in row.translations]
    if not rows:
        raise DataError(f"{trial.corpus.name}: no held-out content in {language} has an English text.")
    return draw_rows(rows, trial.effort.test_clips)


@torch.no_grad()
def text_loss(translator: SpeechTranslator, samples: Tensor, text: str) -> tuple[float, float]:
    """Cross-entropy of the English text of a recording, samples of shape ``(S,)``, in nats; and its tokens."""
    targets = translator.decoder.targets([text], [INTO], MOST_TOKENS)
    logits = translator(samples[None], torch.tensor([len(samples)]), targets.inputs)
    found = smoothed_cross_entropy(logits, targets.labels)
    return float(found.nll_sum), float(found.tokens)


def _better(name: str, arm: str, baseline: str) -> Contrast:
    return Contrast(name=name, arm=arm, baseline=baseline, measure=TEXT_LOSS.measure, conditions=SPOKEN)


FROZEN = SpeechTranslatorConfig(adapter_dim=0, training="decoder", train_layer_norms=False)
"""The encoder stays as it is."""

ADAPTERS: Claim[SpeechTranslator] = Claim(
    name="translate-adapters",
    paper="arXiv:2306.00789",
    says="Adapters in a frozen encoder are enough; training all of it, and other sizes, are not compared.",
    design="The starter encoder (--base) and a small decoder from nothing, from all spoken languages into English. Of "
    "the encoder is trained: nothing; two adapters in each layer (of 16, 64 and 256 dims) and its layer norms; or all. "
    "One arm begins with random weights. A filter bank has no layers to put adapters into and is left out. Scored on "
    "contents that no arm met.",
    steps=400,
    like=None,
    arms={
        "random encoder": translating(FROZEN, random=True),
        "frozen": translating(FROZEN),
        **{
            f"adapters of {dim}": translating(SpeechTranslatorConfig(adapter_dim=dim, training="decoder"))
            for dim in SIZES
        },
        "full": translating(replace(FROZEN, training="full")),
    },
    score=score,
    untrained=("chance",),
    scales=(TEXT_LOSS,),
    contrasts=(
        _better("adapters of 64 against full", "adapters of 64", "full"),
        _better("adapters of 64 against frozen", "adapters of 64", "frozen"),
        _better("full against frozen", "full", "frozen"),
        _better("adapters of 64 against 16", "adapters of 64", "adapters of 16"),
        _better("adapters of 256 against 64", "adapters of 256", "adapters of 64"),
        _better("frozen against random weights", "frozen", "random encoder"),
    ),
)
