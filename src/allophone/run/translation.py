"""From a corpus with translations to a speech translator in a folder: an encoder, and a decoder pretrained or new."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.errors import ConfigError
from allophone.methods.speech_translation import SpeechTranslation, SpeechTranslationConfig
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash
from allophone.models.frozen import FrozenStates
from allophone.models.small_decoder import SmallDecoder, train_tokenizer
from allophone.models.speech_translator import (
    INFO_FILE,
    SpeechTranslator,
    SpeechTranslatorConfig,
    save_speech_translator,
)
from allophone.models.text_decoder import load_text_decoder
from allophone.models.text_encoder import text_model_hash
from allophone.models.token_decoder import SearchConfig, TokenDecoder
from allophone.nn.decoder import Decoder, DecoderConfig
from allophone.run.config import DataConfig
from allophone.run.progress import Report, silent
from allophone.run.texts import Heard, TextRun, execute_with_texts, heard_with_texts, texts_of_row, undisturbed
from allophone.seeding import derive
from allophone.train.config import TrainConfig

CREATED_BY = "allophone translate"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewDecoder:
    """A decoder that is made from nothing, with a tokenizer of the texts that it learns to write."""

    tokens: int = 1500
    """Most tokens, languages included."""
    dim: int = 128
    """Width."""
    layers: int = 2
    """Layers."""
    heads: int = 4
    """Attention heads."""
    inner_dim: int = 512
    """Width of the feed-forward part."""
    dropout: float = 0.2
    """In every part of a layer."""
    max_positions: int = 96
    """Longest text in tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslateConfig:
    """A complete training of a translator."""

    name: str
    """What the model card calls it."""
    seed: int
    """Of initialization, sampling, texts and dropout."""
    languages: tuple[str, ...]
    """Languages of texts; each utterance is written in one of them that it has a text in."""
    decoder: NewDecoder | None
    """A decoder made from nothing; None = one that is named."""
    translator: SpeechTranslatorConfig
    """What joins encoder and decoder, and what is trained."""
    method: SpeechTranslationConfig
    """The loss."""
    data: DataConfig
    """What is heard."""
    train: TrainConfig
    """For how long and how."""

    def __post_init__(self) -> None:
        if not self.languages:
            raise ConfigError("A translator needs at least one language to write.")
        if self.decoder is not None and self.translator.training == "adapters":
            raise ConfigError("A decoder from nothing knows nothing: translator.training must be 'decoder' or 'full'.")


def execute_translation(
    config: TranslateConfig,
    corpus: Corpus,
    run_dir: Path,
    *,
    encoder: Encoder,
    decoder: str | Path | None = None,
    frozen: FrozenStates | None = None,
    report: Report = silent,
) -> TextRun:
    """Train a translator, or go on with it; nothing is done where the same run is finished.

    Args:
        config: The run; written to ``run_dir/config.json``.
        corpus: Its training split is heard.
        run_dir: Receives ``metrics.jsonl``, ``checkpoints/``, ``used.parquet`` and ``model/``.
        encoder: Of speech; it is changed in place.
        decoder: Folder or hub id of the decoder (mBART-50, NLLB); None = ``config.decoder``.
        frozen: What :func:`shared_states` made; None = the encoder is run in every step.
        report: Told how far each stage is.

    Raises:
        AllophoneError: What the stages raise.
    """
    heard = heard_with_texts(corpus, config.data, config.languages)
    begun_from, named = model_hash(encoder), None if decoder is None else load_text_decoder(decoder)
    origin = {
        "config": to_dict(config),
        "corpus": heard.corpus.hash,
        "encoder": begun_from,
        "decoder": None if named is None else text_model_hash(named.tokenizer, named.model),
    }

    def build() -> SpeechTranslation:
        model = build_translator(config, heard, encoder, named)
        return SpeechTranslation(model, config.method, frozen=frozen, new_decoder=config.decoder is not None)

    def keep(method: SpeechTranslation, folder: Path) -> None:
        card = _card(config, heard, begun_from)
        save_speech_translator(method.model, folder, card, parents=(begun_from,), created_by=CREATED_BY)

    return execute_with_texts(
        config,
        heard,
        run_dir,
        origin=origin,
        clock=encoder.clock,
        finished=is_translator,
        build=build,
        save=keep,
        report=report,
    )


def shared_states(encoder: Encoder, config: TranslateConfig) -> FrozenStates | None:
    """What an encoder says to all translators that leave it alone, computed once, in half precision.

    None where it is trained, or where an utterance sounds otherwise each time.
    """
    if not config.translator.leaves_encoder_alone or not undisturbed(config.data):
        return None
    return FrozenStates(encoder.eval(), [encoder.num_layers], dtype=torch.float16)


def search_as_trained(trained: SpeechTranslationConfig, beams: int) -> SearchConfig:
    """A search that writes texts as long as the longest that were learned, as far as the decoder has places."""
    return SearchConfig(beams=beams, max_tokens=trained.max_target_tokens or sys.maxsize)


def is_translator(folder: Path) -> bool:
    """Whether a folder holds a whole translator."""
    return (folder / INFO_FILE).exists()


def build_translator(
    config: TranslateConfig, heard: Heard, encoder: Encoder, decoder: TokenDecoder | None
) -> SpeechTranslator:
    """A translator before training.

    Raises:
        ConfigError: A decoder is named and another is to be made, or neither.
    """
    if (decoder is None) == (config.decoder is None):
        raise ConfigError("Name a decoder, or have one made from nothing; one of the two.")
    if decoder is not None:
        return SpeechTranslator(encoder, decoder, config.translator)
    assert config.decoder is not None
    return SpeechTranslator(encoder, new_decoder(config.decoder, heard, config.seed), config.translator)


def new_decoder(config: NewDecoder, heard: Heard, seed: int) -> TokenDecoder:
    """A decoder with random weights, and a tokenizer of the texts that it will learn to write."""
    languages = heard.languages or heard.corpus.languages
    texts = sorted({text for row in heard.corpus for text in texts_of_row(row, heard.languages).values()})
    tokenizer = train_tokenizer(texts, languages, config.tokens)
    torch.manual_seed(derive(seed, "decoder"))
    sizes = DecoderConfig(
        vocabulary=len(tokenizer),
        dim=config.dim,
        layers=config.layers,
        heads=config.heads,
        inner_dim=config.inner_dim,
        dropout=config.dropout,
        max_positions=config.max_positions,
    )
    return SmallDecoder(Decoder(sizes), tokenizer)


def _card(config: TranslateConfig, heard: Heard, parent: str) -> str:
    hours = ", ".join(f"{language} {value:.2f}" for language, value in sorted(heard.corpus.hours().items()))
    made = "made from nothing on the texts of this corpus" if config.decoder else "pretrained"
    return (
        f"# {config.name}\n\nA speech translator: speech encoder {parent}, a decoder {made}, trained with allophone "
        f"({config.translator.training}, {config.train.steps} updates). It writes {', '.join(config.languages)}.\n\n"
        f"Heard: {heard.corpus.name}, {len(heard.corpus)} utterances; hours: {hours}.\n\n"
        "Trained on few hours, it mostly knows the sentences that it was trained on: far from them it writes something "
        "fluent that was not said. Read the confidence, and the scores on unmet contents in the run's `scores.md`.\n"
    )
