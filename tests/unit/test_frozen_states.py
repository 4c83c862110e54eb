"""States of a frozen encoder: as it gives them, computed once, and of no consequence for memory."""

from __future__ import annotations

import tiny_model
import torch

from allophone.methods.frozen_states import FrozenStates


def test_states_are_the_encoders_and_are_computed_once() -> None:
    encoder, batch = tiny_model.lasr().eval(), tiny_model.batch()
    with torch.no_grad():
        expected = encoder(batch.waveform, batch.waveform_lengths).hidden_states
    states = FrozenStates(encoder, [0, 1])
    first = states(batch)
    assert [part.lengths for part in first] == [expected[0].lengths] * 2
    for found, layer in zip(first, (0, 1), strict=True):
        torch.testing.assert_close(found.values, expected[layer].values, atol=2e-3, rtol=2e-3)
    encoder.forward = None  # type: ignore[assignment]
    assert all(torch.equal(one.values, two.values) for one, two in zip(states(batch), first, strict=True))


def test_states_do_not_depend_on_what_was_kept() -> None:
    encoder, batch = tiny_model.lasr().eval(), tiny_model.batch()
    kept, poor = FrozenStates(encoder, [1]), FrozenStates(encoder, [1], budget_bytes=0)
    kept(batch)
    again, anew = kept(batch)[0], poor(batch)[0]
    assert poor.used_bytes == 0 < kept.used_bytes
    torch.testing.assert_close(again.values, anew.values, atol=1e-5, rtol=0)
    assert again.values.dtype == torch.float32 and torch.equal(again.values, again.values.half().float())
