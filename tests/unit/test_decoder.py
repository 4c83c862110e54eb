"""Our decoder: what a token may see, and that a cache changes nothing."""

from __future__ import annotations

import pytest
import torch

from allophone.errors import ConfigError, ShapeError
from allophone.nn.beam_search import BeamConfig, beam_search
from allophone.nn.decoder import Decoder, DecoderCache, DecoderConfig, DecoderStep

CONFIG = DecoderConfig(vocabulary=30, dim=16, layers=2, heads=2, inner_dim=24, dropout=0.0, max_positions=20)
STATES, LENGTHS = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([7, 3, 5])


@pytest.fixture()
def decoder() -> Decoder:
    torch.manual_seed(2)
    model = Decoder(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model


def test_tokens_see_no_later_ones_and_no_padding(decoder: Decoder) -> None:
    tokens = torch.randint(4, 30, (3, 9))
    before = decoder(tokens, STATES, LENGTHS)
    changed = tokens.clone()
    changed[:, 6:] = 4
    louder = STATES.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        louder[row, length:] = 50.0
    after = decoder(changed, louder, LENGTHS)
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6:], before[:, 6:], atol=1e-3)


def test_a_cache_changes_nothing(decoder: Decoder) -> None:
    tokens, cache = torch.randint(4, 30, (3, 9)), DecoderCache()
    whole = decoder(tokens, STATES, LENGTHS)
    parts = [decoder(part, STATES, LENGTHS, cache) for part in tokens.split([4, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert cache.length == 9


@pytest.mark.parametrize("beams", [1, 4])
def test_searched_with_and_without_cache(decoder: Decoder, beams: int) -> None:
    config = BeamConfig(beams=beams, max_tokens=12)
    found = [
        beam_search(DecoderStep(decoder, STATES, LENGTHS, beams, cached=cached), torch.full((3, 1), 2), config)
        for cached in (True, False)
    ]
    for one, other in zip(*found, strict=True):
        assert [text.tokens for text in one] == [text.tokens for text in other] and len(one) == beams
        assert [text.score for text in one] == pytest.approx([text.score for text in other], rel=1e-4)


def test_gradients_reach_everything(decoder: Decoder) -> None:
    decoder(torch.randint(4, 30, (3, 4)), STATES, LENGTHS).square().sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_what_cannot_work_is_refused(decoder: Decoder) -> None:
    with pytest.raises(ConfigError, match="heads that divide dim"):
        DecoderConfig(vocabulary=4, dim=10, heads=3)
    with pytest.raises(ShapeError, match="expected as many rows in each, and states of 16 dims"):
        decoder(torch.zeros(3, 2, dtype=torch.int64), STATES[..., :8], LENGTHS)
    with pytest.raises(ShapeError, match="a text of 21 tokens; this one has positions for 20"):
        decoder(torch.zeros(3, 21, dtype=torch.int64), STATES, LENGTHS)
