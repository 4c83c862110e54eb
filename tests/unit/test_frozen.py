"""What a frozen encoder made of a recording is kept, and is what it would make of it again."""

from __future__ import annotations

import pytest
import tiny_model
import torch

from allophone.models.frozen import FrozenStates


@pytest.mark.parametrize("all_layers", [True, False])
def test_states_are_those_of_the_encoder_and_are_made_once(all_layers: bool) -> None:
    encoder, calls = tiny_model.lasr().eval(), []
    encoder.register_forward_hook(lambda *given: calls.append(len(given[1][1])))
    kept = FrozenStates(encoder, all_layers=all_layers, most_bytes=10**8)
    waveform, lengths = 0.1 * torch.randn(3, 9_000), torch.tensor([9_000, 5_000, 7_000])
    with torch.no_grad():
        expected = encoder(waveform, lengths).hidden_states
    calls.clear()
    for _ in range(2):
        found = kept(waveform, lengths)
        for mine, their in zip(found, expected if all_layers else expected[-1:], strict=True):
            assert mine.lengths == their.lengths and not mine.values.requires_grad
            torch.testing.assert_close(mine.values, their.values, atol=1e-5, rtol=1e-4)
    assert calls == [1, 1, 1]  # each by itself, so that none depends on who came along
    changed = waveform.clone()
    changed[1, 10] += 0.1  # another recording; what stands beyond a length is none
    changed[2, 8_000] += 0.1
    again = kept(changed, lengths)
    assert calls == [1, 1, 1, 1]
    assert not torch.equal(again[-1].split()[1], found[-1].split()[1])
    assert torch.equal(again[-1].split()[2], found[-1].split()[2])


def test_no_more_is_kept_than_there_is_room() -> None:
    encoder, calls = tiny_model.lasr().eval(), []
    encoder.register_forward_hook(lambda *given: calls.append(1))
    kept = FrozenStates(encoder, all_layers=False, most_bytes=0)
    waveform, lengths = 0.1 * torch.randn(1, 9_000), torch.tensor([9_000])
    torch.testing.assert_close(kept(waveform, lengths)[0].values, kept(waveform, lengths)[0].values)
    assert len(calls) == 2
