"""Pretrained decoders: their languages, what they read and say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_translator import LANGUAGES, SIZES, decoder_folder, tokenizer
from transformers import (
    BertConfig,
    BertModel,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from allophone.errors import CheckpointError, ConfigError, DataError
from allophone.models.text_decoder import TextDecoder, load_text_decoder
from allophone.models.token_decoder import IGNORED, SearchConfig, language_tokens


class Vocabulary:
    """The one thing that :func:`language_tokens` asks of a tokenizer."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}


def test_languages_are_found_in_every_spelling() -> None:
    mbart = language_tokens(Vocabulary("</s>", "▁it_IT", "ar_AR", "zh_CN", "sw_KE", "fa_IR", "en_XX"))
    assert mbart["cmn_Hans"] == "zh_CN" and mbart["eng_Latn"] == "en_XX" and "ita_Latn" not in mbart
    assert mbart["arb_Arab"] == "ar_AR" and mbart["swh_Latn"] == "sw_KE"
    assert language_tokens(Vocabulary("__fr__", "__zz__", "__ast__")) == {"fra_Latn": "__fr__", "ast_Latn": "__ast__"}
    nllb = language_tokens(Vocabulary("zho_Hans", "zho_Hant", "arb_Arab", "ara_Arab", "quy_Latn"))
    assert nllb["cmn_Hant"] == "zho_Hant" and nllb["arb_Arab"] == "arb_Arab" and nllb["quy_Latn"] == "quy_Latn"


@pytest.mark.parametrize("family", LANGUAGES)
def test_texts_become_what_the_checkpoint_was_trained_on(family: str, tmp_path: Path) -> None:
    decoder = load_text_decoder(decoder_folder(tmp_path, family))
    targets = decoder.targets(["une voix joyeuse", "bonjour"], ["fr", "ru"], max_tokens=5)
    french, russian = decoder.language_id("fra_Latn"), decoder.language_id("ru")
    assert targets.inputs[0, :2].tolist() == [2, french] and targets.inputs[1, :2].tolist() == [2, russian]
    assert targets.labels[0, 0] == french and targets.labels[0, -1] == 2 and targets.labels.shape == (2, 5)
    for inputs, labels in zip(targets.inputs, targets.labels, strict=True):  # the same, one to the right
        real = int((labels != IGNORED).sum())
        assert labels[real - 1] == 2 and torch.equal(inputs[1:real], labels[: real - 1])
        assert inputs[real:].eq(1).all()
    assert decoder.text(targets.labels[0].tolist()).startswith("un")


def test_the_text_encoder_is_not_there(tmp_path: Path) -> None:
    decoder = load_text_decoder(decoder_folder(tmp_path))
    assert not [name for name, _ in decoder.named_parameters() if ".encoder.layers." in name]
    assert decoder.model.config.encoder_layers == 0 and len(decoder.sites) == 2


def test_a_checkpoint_does_not_decide_the_search(tmp_path: Path) -> None:
    decoder_folder(tmp_path)
    states, lengths = torch.randn(1, 4, 24), torch.tensor([4])
    config = SearchConfig(beams=3, max_tokens=9)
    expected = load_text_decoder(tmp_path).generate(states, lengths, 5, config)
    other = {
        "num_beams": 1,
        "max_length": 4,
        "forced_bos_token_id": 4,
        "no_repeat_ngram_size": 1,
        "bad_words_ids": [[9]],
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(other))
    assert load_text_decoder(tmp_path).generate(states, lengths, 5, config) == expected
    assert expected[0][0] == 5 and len(expected[0]) <= 9


def test_languages_without_a_token_are_refused(tmp_path: Path) -> None:
    decoder = load_text_decoder(decoder_folder(tmp_path))
    with pytest.raises(DataError, match="no token for swh_Latn"):
        decoder.language_id("sw")
    with pytest.raises(DataError, match="Unknown language 'xx'"):
        decoder.targets(["a"], ["xx"])
    decoder.languages["swh_Latn"] = "sw_KE"  # a token that the vocabulary has not: the unknown token
    with pytest.raises(DataError, match="token 3 of the tokenizer"):
        decoder.language_id("sw")


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a sequence-to-sequence model"):
        load_text_decoder(tmp_path)
    with pytest.raises(ConfigError, match="t5 is no decoder of the BART family"):
        TextDecoder(T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, num_heads=2, num_layers=1, vocab_size=9)))
    with pytest.raises(ConfigError, match="bert is no decoder"):
        TextDecoder(BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)))
    words = tokenizer("mbart")
    model = MBartForConditionalGeneration(MBartConfig(vocab_size=len(words), **SIZES | {"decoder_start_token_id": 5}))
    with pytest.raises(ConfigError, match=r"is a language \(fr_XX\)"):
        TextDecoder(model, words)
    model.config.decoder_start_token_id = None
    with pytest.raises(ConfigError, match="no decoder_start_token_id"):
        TextDecoder(model, words)
    with pytest.raises(ConfigError, match="beams >= 1"):
        SearchConfig(beams=0)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    decoder_folder(tmp_path, "m2m_100")
    config = M2M100Config.from_pretrained(tmp_path)
    config.decoder_layers = 3
    config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"weights are missing: .*decoder.layers.2"):
        load_text_decoder(tmp_path)
    assert M2M100ForConditionalGeneration  # both families are written by transformers
