"""What a frozen encoder made of a recording is kept, and is what it would make of it again."""

from __future__ import annotations

import pytest
import tiny_model
import torch

from allophone.models.frozen import FrozenStates


@pytest.mark.parametrize(("layers", "dtype"), [((0, 1), torch.float32), ((1,), torch.float16), ((0,), torch.float32)])
def test_states_are_those_of_the_encoder_and_are_made_once(layers: tuple[int, ...], dtype: torch.dtype) -> None:
    encoder, calls = tiny_model.lasr().eval(), []
    encoder.register_forward_hook(lambda *given: calls.append(len(given[1][1])))
    kept = FrozenStates(encoder, layers, dtype=dtype)
    waveform, lengths = 0.1 * torch.randn(3, 9_000), torch.tensor([9_000, 5_000, 7_000])
    with torch.no_grad():
        expected = encoder(waveform, lengths).hidden_states
    calls.clear()
    near = 1e-5 if dtype == torch.float32 else 2e-3
    for _ in range(2):
        found = kept(waveform, lengths)
        assert len(found) == len(layers)
        for mine, layer in zip(found, layers, strict=True):
            assert mine.lengths == expected[layer].lengths and not mine.values.requires_grad
            torch.testing.assert_close(mine.values, expected[layer].values, atol=near, rtol=near)
    assert calls == [1, 1, 1]  # each by itself, so that none depends on who came along
    changed = waveform.clone()
    changed[1, 10] += 0.1  # another recording; what stands beyond a length is none
    changed[2, 8_000] += 0.1
    again = kept(changed, lengths)
    assert calls == [1, 1, 1, 1]
    assert not torch.equal(again[-1].split()[1], found[-1].split()[1])
    assert torch.equal(again[-1].split()[2], found[-1].split()[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_states_do_not_depend_on_what_came_before_or_was_kept(dtype: torch.dtype) -> None:
    encoder, batch = tiny_model.lasr().eval(), tiny_model.batch()
    waveform, lengths = batch.waveform, batch.waveform_lengths
    kept, poor = FrozenStates(encoder, [1], dtype=dtype), FrozenStates(encoder, [1], dtype=dtype, most_bytes=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as in the loop
        kept(waveform[1:2], lengths[1:2])
        first, again, anew = (states(waveform, lengths)[0].values for states in (kept, kept, poor))
    assert first.dtype == torch.float32 and torch.equal(first, first.to(dtype).float())
    assert torch.equal(again, first) and torch.equal(anew, first)


def test_no_more_is_kept_than_there_is_room() -> None:
    encoder, calls = tiny_model.lasr().eval(), []
    encoder.register_forward_hook(lambda *given: calls.append(1))
    waveform, lengths = 0.1 * torch.randn(1, 9_000).expand(2, -1), torch.tensor([9_000, 9_000])
    size = FrozenStates(encoder, [1])(waveform[:1], lengths[:1])[0].values.nbytes
    for room, expected in ((size, 1), (size - 1, 2)):
        calls.clear()
        kept = FrozenStates(encoder, [1], most_bytes=room)
        first = kept(waveform, lengths)[0]  # the same twice is made, and counted, once
        assert torch.equal(kept(waveform, lengths)[0].values, first.values)
        assert len(calls) == expected


def test_utterances_may_be_known_by_name() -> None:
    encoder, batch = tiny_model.lasr().eval(), tiny_model.batch()
    kept = FrozenStates(encoder, [1])
    first = kept(batch.waveform, batch.waveform_lengths, batch.ids)[0]
    found = kept(0 * batch.waveform, batch.waveform_lengths, batch.ids[::-1])[0]
    assert all(torch.equal(*pair) for pair in zip(found.split(), first.split()[::-1], strict=True))
