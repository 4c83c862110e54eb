"""What training a translator would take, and the arithmetic of its adapters, also at the sizes of arXiv:2306.00789."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from allophone.data.corpus import Corpus
from allophone.data.splits import split_corpus
from allophone.methods.speech_translation import SpeechTranslation
from allophone.models.text_decoder import load_text_decoder
from allophone.models.translator_size import count_parameters, in_millions, paper_counts
from allophone.recipes.translate import TranslateOptions, translate_config
from allophone.run.starter import open_base
from allophone.run.text_plan import plan_texts
from allophone.run.texts import heard_with_texts, require_texts, text_stream, without
from allophone.run.translation import build_translator, shared_states
from allophone.text.languages import parse_language


def plan(
    model: str | Path,
    corpus: Corpus,
    *,
    languages: Sequence[str],
    decoder: str | Path | None,
    options: TranslateOptions,
    encoders: int,
    seeds: int,
    leave_out: Sequence[str],
) -> str:
    """What training ``encoders`` times ``seeds`` translators would do, from a probe of the first batch of one of them.

    With the arithmetic of adapters.

    Raises:
        AllophoneError: What opening model, corpus and decoder raise.
    """
    whole = split_corpus(corpus) if all(row.split is None for row in corpus) else corpus
    tags = tuple(parse_language(language).tag for language in languages)
    require_texts(whole, tags)
    config, encoder = translate_config(options, tags, 0, decoder), open_base(model)[0].encoder
    heard = heard_with_texts(without(whole, leave_out), config.data, config.languages)
    named = None if decoder is None else load_text_decoder(decoder)
    frozen = shared_states(encoder, config)
    method = SpeechTranslation(build_translator(config, heard, encoder, named), config.method, frozen=frozen)
    with closing(text_stream(heard, encoder.clock, config)) as stream:
        batch = next(stream)
    hours = sum(heard.corpus.hours().values())
    notes = (
        f"{len(heard.corpus)} utterances with a text in {', '.join(tags)}.",
        f"This model: {in_millions(count_parameters(method.model))}",
        f"At the paper's sizes (XLS-R 300M, mBART-50, 2 x 512): {in_millions(paper_counts())}",
    )
    plan = plan_texts(
        f"Translation on {hours:.2f} h",
        method,
        batch,
        config.train,
        seeds=seeds,
        notes=notes,
        encoders=encoders,
        frozen=frozen,
        hours=hours,
    )
    return str(plan)
