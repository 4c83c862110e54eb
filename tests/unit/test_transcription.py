"""Transcription: an alphabet, spelling, what is counted, and the same from its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from allophone.batch import SpeechBatch, Texts
from allophone.errors import CheckpointError, ConfigError, DataError
from allophone.methods.transcription import Transcription, TranscriptionConfig
from allophone.models.conversion import load_encoder, read_lineage
from allophone.models.transcriber import (
    CTC_WEIGHT,
    INFO_FILE,
    WEIGHTS_FILE,
    SpellingDecoderConfig,
    Transcriber,
    alphabet_of,
    best_path,
    load_transcriber,
    save_transcriber,
)
from allophone.nn.ctc import best_texts
from allophone.train.config import TrainConfig
from allophone.train.optimizer import build_optimizer

TEXTS = Texts(("Oui!", "non", "да"), ("fra_Latn", "fra_Latn", "rus_Cyrl"))
ALPHABET = alphabet_of(TEXTS.texts, TEXTS.languages)


def batch() -> SpeechBatch:
    return replace(tiny_model.batch(), texts=TEXTS).validate()


def transcriber(decoder: SpellingDecoderConfig | None = None) -> Transcriber:
    torch.manual_seed(3)
    return Transcriber(tiny_model.lasr(), ALPHABET, dropout=0.0, decoder=decoder)


DECODER = SpellingDecoderConfig(layers=1, inner_dim=16, dropout=0.0, max_positions=40)


def test_an_alphabet_is_what_normalized_texts_have() -> None:
    assert ALPHABET == ("i", "n", "o", "u", "а", "д")
    model = transcriber()
    assert model.spell(model.symbols("NON!", "fr")) == "non"
    with pytest.raises(DataError, match=r"\[' ', 'z'\] of 'z oui' \(fra_Latn\) are not in the alphabet of 6"):
        model.symbols("z oui", "fra_Latn")
    with pytest.raises(ConfigError, match="single characters, each once"):
        Transcriber(tiny_model.lasr(), ["a", "a"])


def test_counts_characters_and_learns_to_spell() -> None:
    trained = Transcription(transcriber(), TranscriptionConfig()).train()
    build_optimizer(trained, trained.parameter_groups(), TrainConfig(steps=1))  # everything is in one group
    assert int(trained.count(batch())) == 8
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        output = trained.step(batch())
        output.loss_sum.backward()
        optimizer.step()
    assert not [name for name, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    assert int(output.sums["impossible"][0]) == 0
    for width in (1, 8):
        heard = trained.artifact().transcribe(batch().waveform, batch().waveform_lengths, width=width)
        assert [found.text for found in heard] == ["oui", "non", "да"]
        assert all(0.5 < found.confidence <= 1 for found in heard)


def test_a_frozen_encoder_stays() -> None:
    trained = Transcription(transcriber(), TranscriptionConfig(train_encoder=False)).train()
    assert not trained.model.encoder.training
    trained.step(batch()).loss_sum.backward()
    assert {name for name, p in trained.named_parameters() if p.grad is not None} == {
        "model.lm_head.weight",
        "model.lm_head.bias",
    }
    with pytest.raises(DataError, match="needs texts"):
        trained.step(tiny_model.batch())
    with pytest.raises(ConfigError, match="encoder_lr_scale must be positive"):
        TranscriptionConfig(encoder_lr_scale=0.0)


def test_a_decoder_learns_beside_ctc() -> None:
    trained = Transcription(transcriber(DECODER), TranscriptionConfig(ctc_weight=0.4, smoothing=0.2)).train()
    build_optimizer(trained, trained.parameter_groups(), TrainConfig(steps=1))  # everything is in one group
    found, model = trained.step(batch()), trained.model
    states = model.encoder(batch().waveform, batch().waveform_lengths).hidden_states[-1]
    losses = torch.zeros(2)
    for row, text in zip(states.split(), ("oui", "non", "да"), strict=True):
        symbols = torch.tensor([ALPHABET.index(character) + 1 for character in text])
        likely = model.lm_head(row).log_softmax(dim=-1)[:, None]
        sizes = torch.tensor([len(row)]), torch.tensor([len(symbols)])
        losses[0] += F.ctc_loss(likely, symbols[None], *sizes, reduction="sum")
        edge = torch.tensor([len(ALPHABET) + 1])
        said = model.decoder(torch.cat([edge, symbols])[None], row[None], torch.tensor([len(row)]))[0]
        losses[1] += F.cross_entropy(said, torch.cat([symbols, edge]), reduction="sum", label_smoothing=0.2)
    torch.testing.assert_close(found.loss_sum, 0.4 * losses[0] + 0.6 * losses[1])
    assert int(found.sums["decoder_nll"][1]) == 8 + 3  # ends are said too
    found.loss_sum.backward()
    assert not [name for name, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    with pytest.raises(ConfigError, match="ctc_weight must be above 0"):
        TranscriptionConfig(ctc_weight=0.0)


def test_a_decoder_re_ranks_what_ctc_keeps() -> None:
    model = transcriber(DECODER).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(4.0)  # some texts are likelier than others
        model.decoder.embed_tokens.weight.mul_(40.0)
    states = model.states(batch().waveform, batch().waveform_lengths)
    heard = model.transcribe(batch().waveform, batch().waveform_lengths, width=6)
    changed = 0
    for row, transcript in zip(states.split(), heard, strict=True):
        kept = best_texts(model.lm_head(row).log_softmax(dim=-1).detach(), width=6)
        scores = {}
        for symbols, by_ctc in kept:
            text = torch.tensor([model.edge, *symbols])
            said = model.decoder(text[None], row[None], torch.tensor([len(row)]))[0].log_softmax(dim=-1).detach()
            by_decoder = sum(float(said[place, symbol]) for place, symbol in enumerate([*symbols, model.edge]))
            scores[model.spell(symbols)] = CTC_WEIGHT * by_ctc + (1 - CTC_WEIGHT) * by_decoder
        assert transcript.text == max(scores, key=lambda text: scores[text])
        changed += transcript.text != model.spell(kept[0][0])
    assert changed  # CTC alone would have taken another text
    with pytest.raises(ConfigError, match="has no decoder beside CTC"):
        transcriber().next_symbols(states, [[1]] * 3)


def test_texts_that_the_decoder_has_no_positions_for() -> None:
    model = transcriber(replace(DECODER, max_positions=3)).eval()
    states = model.states(batch().waveform, batch().waveform_lengths)
    _, labels = model.next_symbols(states, [[1, 2, 3, 4], [1], []])
    assert labels.tolist() == [[1, 2, model.edge], [1, model.edge, -100], [model.edge, -100, -100]]
    alone = transcriber().eval()
    alone.lm_head.load_state_dict(model.lm_head.state_dict())
    alone.encoder.load_state_dict(model.encoder.state_dict())
    arguments = (batch().waveform, batch().waveform_lengths)
    assert max(len(found.text) for found in alone.transcribe(*arguments)) >= 3  # so CTC has the say
    assert model.transcribe(*arguments) == alone.transcribe(*arguments)


def test_best_path_keeps_what_a_blank_parts() -> None:
    frames = torch.full((6, 4), -9.0)
    for frame, symbol in enumerate([1, 1, 0, 1, 3, 0]):
        frames[frame, symbol] = 0.0
    assert best_path(frames) == [1, 1, 3] and best_path(frames[2:3]) == []


@pytest.mark.parametrize("decoder", [None, DECODER])
def test_saved_is_loaded(decoder: SpellingDecoderConfig | None, tmp_path: Path) -> None:
    model = transcriber(decoder).eval()
    save_transcriber(model, tmp_path, "# A card", parents=("base",))
    assert read_lineage(tmp_path)["parents"] == ["base"]
    again = load_transcriber(tmp_path)
    arguments = (batch().waveform, batch().waveform_lengths)
    assert again.alphabet == model.alphabet and again.transcribe(*arguments) == model.transcribe(*arguments)
    load_encoder(tmp_path)
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=r"transcriber.json: .*lm_head|transcriber.json: .*bias"):
        load_transcriber(tmp_path)
    (tmp_path / INFO_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="format is not 'allophone-transcriber-1'"):
        load_transcriber(tmp_path)
    nn.init.constant_(model.lm_head.bias, float("nan"))
    with pytest.raises(CheckpointError, match="NaN or infinite values in lm_head or decoder"):
        save_transcriber(model, tmp_path, "# A card")
