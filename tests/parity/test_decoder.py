"""Our decoder and search against ``transformers``' mBART: the same weights, scores and texts."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig, MBartConfig, MBartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from allophone.nn.beam_search import BeamConfig, beam_search
from allophone.nn.decoder import Decoder, DecoderConfig, DecoderStep

pytestmark = pytest.mark.parity
STATES = torch.randn(4, 9, 24, generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([9, 4, 6, 1])
VALID = torch.arange(9)[None] < LENGTHS[:, None]


@pytest.fixture(scope="module")
def models() -> tuple[MBartForConditionalGeneration, Decoder]:
    torch.manual_seed(6)
    config = MBartConfig(
        vocab_size=40,
        d_model=24,
        encoder_layers=0,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        max_position_embeddings=40,
        decoder_start_token_id=2,
        scale_embedding=True,
        init_std=0.25,
    )
    theirs = MBartForConditionalGeneration(config).eval()
    ours = Decoder(
        DecoderConfig(vocabulary=40, dim=24, layers=2, heads=2, inner_dim=32, max_positions=40, scale_embedding=True)
    ).eval()
    ours.load_state_dict(theirs.model.decoder.state_dict())  # every name fits
    return theirs, ours


def test_the_same_scores(models: tuple[MBartForConditionalGeneration, Decoder]) -> None:
    theirs, ours = models
    tokens = torch.randint(4, 40, (4, 8))
    with torch.no_grad():
        states = BaseModelOutput(last_hidden_state=STATES)
        expected = theirs(encoder_outputs=states, attention_mask=VALID.long(), decoder_input_ids=tokens).logits
        torch.testing.assert_close(ours(tokens, STATES, LENGTHS), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_the_same_texts(models: tuple[MBartForConditionalGeneration, Decoder], beams: int, penalty: float) -> None:
    theirs, ours = models
    settings = GenerationConfig(
        num_beams=beams,
        length_penalty=penalty,
        early_stopping=False,
        max_new_tokens=15,
        forced_bos_token_id=7,
        decoder_start_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
    )
    theirs.generation_config = GenerationConfig(decoder_start_token_id=2, eos_token_id=2, pad_token_id=1)
    with torch.no_grad():
        expected = theirs.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=STATES),
            attention_mask=VALID.long(),
            generation_config=settings,
        )
        found = beam_search(
            DecoderStep(ours, STATES, LENGTHS, beams),
            torch.full((4, 1), 2),
            BeamConfig(beams=beams, length_penalty=penalty, max_tokens=15),
            lambda new: torch.full((4,), 7) if new == 0 else None,
        )
    for row, texts in zip(expected.tolist(), found, strict=True):
        best = list(texts[0].tokens)
        assert row[: len(best)] == best and set(row[len(best) :]) <= {1}
