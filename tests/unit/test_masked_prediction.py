"""Masked prediction: the loss as fairseq computes it, counts known before the forward pass, several labels a frame."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_model import batch, encoder

from allophone.batch import SpeechBatch
from allophone.errors import ConfigError, DataError
from allophone.losses.masked_prediction import masked_prediction_loss
from allophone.methods.masked_prediction import MaskedPrediction, MaskedPredictionConfig
from allophone.models.hubert import Hubert, HubertConfig


def test_loss_equals_fairseqs_positive_first_formulation() -> None:
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(7, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    units = torch.randint(4, (7,), generator=generator)
    loss, correct = masked_prediction_loss(projected, table, units)
    positive = table[units]
    logits = torch.stack(
        [F.cosine_similarity(projected, other.expand_as(projected), dim=-1) for other in [positive, *table]], dim=-1
    )
    duplicate = (table[None] == positive[:, None]).all(-1)
    logits[:, 1:][duplicate] = float("-inf")
    expected = F.cross_entropy(logits / 0.1, torch.zeros(7, dtype=torch.long), reduction="sum")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    (mine,) = torch.autograd.grad(loss, projected, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, projected)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert int(correct) == int((logits[:, 1:].where(~duplicate, logits[:, :1]).argmax(-1) == units).sum())


def test_no_prediction_gives_zero() -> None:
    loss, correct = masked_prediction_loss(torch.zeros(0, 4), torch.rand(3, 4), torch.zeros(0, dtype=torch.long))
    assert float(loss) == 0 and int(correct) == 0


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_count_is_known_before_the_forward_pass(weight: float) -> None:
    method = MaskedPrediction(
        encoder(), MaskedPredictionConfig(num_units=5, labels_per_frame=2, unmasked_weight=weight)
    )
    one = batch(labels=2)
    masked = int(one.masked.sum())
    assert int(method.count(one)) == 2 * (masked if weight == 0 else int(one.frame_lengths.sum()))
    assert int(method.step(one).sums["loss_masked"][1]) == 2 * masked


def test_sum_over_a_batch_is_the_sum_over_its_utterances() -> None:
    method = MaskedPrediction(encoder(), MaskedPredictionConfig(num_units=5, unmasked_weight=0.3)).eval()
    whole = batch()
    parts = 0.0
    for row in range(3):
        frames, samples = int(whole.frame_lengths[row]), int(whole.waveform_lengths[row])
        parts += float(
            method.step(
                SpeechBatch(
                    (whole.ids[row],),
                    whole.waveform[row : row + 1, :samples],
                    whole.waveform_lengths[row : row + 1],
                    whole.frame_lengths[row : row + 1],
                    whole.units[row : row + 1, :frames],
                    whole.masked[row : row + 1, :frames],
                )
            ).loss_sum
        )
    assert float(method.step(whole).loss_sum) == pytest.approx(parts, rel=1e-5)


def test_only_masked_frames_count_when_visible_ones_weigh_nothing() -> None:
    method = MaskedPrediction(encoder(), MaskedPredictionConfig(num_units=5)).eval()
    one = batch()
    other = one.units.clone()
    other[~one.masked & (other[..., 0] >= 0)] = 0
    changed = SpeechBatch(one.ids, one.waveform, one.waveform_lengths, one.frame_lengths, other, one.masked)
    assert torch.equal(method.step(one).loss_sum, method.step(changed).loss_sum)


def test_penalty_is_scaled_by_the_count() -> None:
    torch.manual_seed(0)
    config = HubertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    lengths = torch.tensor([8_000])
    frames = (8_000 - 400) // 320 + 1
    masked = torch.zeros(1, frames, dtype=torch.bool)
    masked[:, 3:9] = True
    one = SpeechBatch(
        ("a",), 0.1 * torch.randn(1, 8_000), lengths, torch.tensor([frames]), torch.zeros(1, frames, 1).long(), masked
    )
    hubert = Hubert(config)
    losses = []
    for weight in (0.0, 10.0):
        torch.manual_seed(3)
        method = MaskedPrediction(hubert, MaskedPredictionConfig(num_units=4, penalty_weight=weight)).eval()
        losses.append(float(method.step(one).loss_sum))
    output = hubert.eval()(one.waveform, lengths, masked)
    mean_square = float(output.features_penalty) / output.feature_count
    assert losses[1] - losses[0] == pytest.approx(10.0 * mean_square * 6, rel=1e-3)


def test_refuses_batches_without_targets_and_wrong_settings() -> None:
    method = MaskedPrediction(encoder(), MaskedPredictionConfig(num_units=5))
    one = batch()
    bare = SpeechBatch(one.ids, one.waveform, one.waveform_lengths, one.frame_lengths)
    with pytest.raises(DataError, match="needs units and masks"):
        method.count(bare)
    with pytest.raises(DataError, match="Batch has 2 labels a frame, the heads predict 1"):
        method.step(batch(labels=2))
    with pytest.raises(ConfigError, match="needs >= 2 units"):
        MaskedPredictionConfig(num_units=1)
