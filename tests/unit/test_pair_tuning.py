"""Pair tuning and its baseline: what is counted, trained, told, and that chunks and warm-ups do as they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import tiny_model
import torch
from torch import Tensor, nn

from allophone.batch import Labels, SpeechBatch
from allophone.errors import ConfigError, DataError, ShapeError
from allophone.losses.mining import MiningConfig
from allophone.methods.cross_entropy_tuning import CrossEntropyTuning, CrossEntropyTuningConfig
from allophone.methods.pair_tuning import PairTuning, PairTuningConfig
from allophone.methods.tuning import TuningConfig, frozen_layers
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig
from allophone.train.config import TrainConfig
from allophone.train.optimizer import build_optimizer

LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
Training = Literal["full", "lora", "last"]


def speech(pooling: Literal["mean", "attention"] = "mean", family: str = "wavlm") -> SpeechEmbedder:
    config = SpeechEmbedderConfig(dim=16, layers="last", pooling=pooling, pooling_dim=4, projection="none")
    return SpeechEmbedder(getattr(tiny_model, family)(), config)


def batch(classes: tuple[int, ...] = (0, 1, 0), place: int = 0) -> SpeechBatch:
    return replace(tiny_model.batch(), labels=Labels(torch.tensor(classes)[:, None], place)).validate()


def pair(config: PairTuningConfig | None = None, tuning: TuningConfig | None = None) -> PairTuning:
    torch.manual_seed(3)
    settings = config or PairTuningConfig(dim=8)
    return PairTuning(speech(), replace(settings, tuning=tuning or settings.tuning))


def moved(method: PairTuning | CrossEntropyTuning) -> set[str]:
    method.step(batch()).loss_sum.backward()
    return {name for name, p in method.named_parameters() if p.grad is not None and bool(p.grad.any())}


def trainable(method: nn.Module) -> set[str]:
    return {name for name, p in method.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("training", ["full", "lora", "last"])
def test_what_is_trained_and_at_which_rate(training: Training) -> None:
    method = pair(tuning=TuningConfig(training=training, last_layers=1, lora_rank=2, lora_layers=LAYERS))
    build_optimizer(method, method.parameter_groups(), TrainConfig(steps=1))  # everything is in one group
    names = trainable(method)
    assert not [name for name in names if "feature_extractor" in name or "masked_spec" in name]
    inside = {name for name in names if ".encoder." in name}
    if training == "lora":
        assert inside and all("lora_" in name for name in inside)
    elif training == "last":
        assert inside and all(".encoder.layers.0." in name for name in inside)
    else:
        assert any("feature_projection" in name for name in inside)
    slow = {id(p) for group in method.parameter_groups() if group.lr_scale == 0.1 for p in group.parameters}
    assert slow == {id(p) for name, p in method.named_parameters() if name in inside and "lora_" not in name}
    assert moved(method) == {name for name in names if "lora_A" not in name}  # those wait for B to leave zero


def test_one_step_counts_anchors_and_tells_of_pairs() -> None:
    method = pair(PairTuningConfig(dim=8, mining=MiningConfig(rule="batch-hard")))
    assert int(method.count(batch())) == 2
    told = {name: float(total) / float(count) for name, (total, count) in method.step(batch()).sums.items()}
    assert told["active_anchors"] == pytest.approx(2 / 3) and told["mined_anchors"] == 1.0
    assert told["kept_positives"] == 1.0 and told["kept_negatives"] == pytest.approx(0.75)  # 3 of 4: the third has both
    assert -1 <= told["negative_cosine"] <= 1 and 1 <= told["effective_dims"] <= 2 + 1e-4  # three points span two
    assert 0 <= told["head_spread"] <= 1


def test_collapse_shows() -> None:
    method = pair()
    with torch.no_grad():
        method.head[2].weight.zero_()
    told = method.step(batch()).sums
    assert float(told["head_spread"][0]) == pytest.approx(0.0, abs=1e-5)
    assert float(told["embedding_spread"][0]) > 1e-4


def loss(method: PairTuning, place: int) -> Tensor:
    return method.eval().step(batch((0, 0, 1), place)).loss_sum.detach()


def test_nothing_is_mined_in_the_first_batches() -> None:
    hard = PairTuningConfig(dim=8, mining=MiningConfig(rule="hardest", num_positives=1, num_negatives=1))
    four = replace(tiny_model.batch(), labels=None)
    waiting, plain = pair(replace(hard, unmined_batches=2)), pair(replace(hard, mining=MiningConfig(rule="none")))
    mined = pair(hard)
    both = torch.cat([four.waveform, 0.3 * four.waveform.flip(0)])
    lengths, frames = torch.cat([four.waveform_lengths] * 2), torch.cat([four.frame_lengths] * 2)
    found = []
    for method, place in ((waiting, 1), (plain, 1), (waiting, 2), (mined, 2)):
        labels = Labels(torch.tensor([0, 0, 0, 1, 1, 1])[:, None], place)
        rows = SpeechBatch(tuple("abcdef"), both, lengths, frames, labels=labels).validate()
        found.append(float(method.eval().step(rows).loss_sum.detach()))
    assert found[0] == found[1] and found[2] == found[3] and found[0] != found[2]


def test_the_head_may_begin_alone() -> None:
    method = pair(tuning=TuningConfig(head_only_batches=1))
    assert moved(method) == {f"head.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")}
    method.step(batch(place=1)).loss_sum.backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_chunks_change_neither_loss_nor_gradients() -> None:
    found = []
    for rows in (3, 1):
        method = pair(tuning=TuningConfig(chunk_rows=rows)).eval()
        total = method.step(batch()).loss_sum
        total.backward()
        found.append((total.detach(), torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


LAST = TuningConfig(training="last", last_layers=1)


def last(config: TuningConfig, frozen: FrozenStates | None = None) -> PairTuning:
    torch.manual_seed(3)
    return PairTuning(speech(), PairTuningConfig(dim=8, tuning=config), frozen)


def test_what_frozen_layers_say_is_computed_once_and_changes_nothing() -> None:
    """Kept, computed again each time or not cut off at all: the same losses, gradients and vectors."""
    shared = frozen_layers(speech(), 1)
    calls: list[int] = []
    shared.encoder.register_forward_hook(lambda *_: calls.append(1))
    without = FrozenStates(shared.encoder, shared.layers, most_bytes=0)
    found, frames = [], tiny_model.batch().frame_lengths.tolist()
    for frozen in (shared, without):
        method = last(replace(LAST, crop_frames=max(frames) - 2), frozen).train()
        torch.manual_seed(5)
        losses = [method.step(batch(place=place)).loss_sum for place in (0, 1)]
        sum(losses).backward()  # type: ignore[attr-defined]
        gradients = [p.grad.flatten() for p in method.parameters() if p.grad is not None]
        found.append((torch.stack(losses).detach(), torch.cat(gradients)))
    assert len(calls) == len(frames) * (1 + 2)
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    one, method = batch(), last(LAST, shared).eval()
    torch.testing.assert_close(method.tuned(one), method.tuned.speech(one.waveform, one.waveform_lengths))
    whole = PairTuning(speech(), PairTuningConfig(dim=8)).eval()
    whole.load_state_dict(method.state_dict())
    torch.testing.assert_close(method.step(one).loss_sum, whole.step(one).loss_sum)


def test_crops_of_frozen_states_are_for_training_alone() -> None:
    method, one = last(replace(LAST, crop_frames=3)), batch()
    assert not torch.allclose(method.train().tuned(one), method.eval().tuned(one), atol=1e-4)
    assert not torch.equal(method.train().tuned(one), method.tuned(one))  # another place each time
    chunked = last(replace(LAST, chunk_rows=1)).eval()
    torch.testing.assert_close(chunked.tuned(one), last(LAST).eval().tuned(one))


def test_lora_is_merged_into_what_is_handed_over() -> None:
    method = pair(tuning=TuningConfig(training="lora", lora_rank=2, lora_layers=LAYERS))
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    method.eval()
    merged = method.artifact()
    assert isinstance(merged, SpeechEmbedder) and not [n for n in merged.state_dict() if "lora_" in n]
    one = batch()
    with torch.no_grad():
        expected, found = method.tuned(one), merged(one.waveform, one.waveform_lengths)
        base = speech().eval()(one.waveform, one.waveform_lengths)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert float((base - found).norm()) > 1e-2
    assert pair().artifact().config.projection == "none"  # type: ignore[union-attr]


def test_the_baseline_counts_rows_and_learns() -> None:
    method = CrossEntropyTuning(speech("attention"), CrossEntropyTuningConfig(num_classes=3))
    build_optimizer(method, method.parameter_groups(), TrainConfig(steps=1))
    assert int(method.count(batch())) == 3
    assert {name for name in trainable(method) if "tuned.speech.encoder" not in name} <= moved(method) | {
        "tuned.speech.pooling.hidden.weight",  # waits for the scores, which start at zero
        "tuned.speech.pooling.hidden.bias",
    }
    output = method.eval().step(batch((2, 1, 0)))
    logits = method.head(method.tuned(batch((2, 1, 0))))
    expected = nn.functional.cross_entropy(logits, torch.tensor([2, 1, 0]), reduction="sum")
    torch.testing.assert_close(output.loss_sum, expected)
    several = replace(batch(), labels=Labels(torch.tensor([[0, 2], [1, -1], [2, -1]]), 0))
    shares = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(method.step(several).loss_sum, -(shares * logits.log_softmax(1)).sum())


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(DataError, match="needs labels"):
        pair().step(tiny_model.batch())
    with pytest.raises(ShapeError, match="a class first in every row"):
        batch((0, -1, 1))
    with pytest.raises(ShapeError, match="3 utterances, but 2 rows of labels"):
        replace(tiny_model.batch(), labels=Labels(torch.tensor([[0], [1]]), 0)).validate()
    with pytest.raises(ConfigError, match="for LoRA, lora_layers"):
        TuningConfig(training="lora")
    with pytest.raises(ConfigError, match="No layer named"):
        pair(tuning=TuningConfig(training="lora", lora_layers=("nowhere",)))
    with pytest.raises(ConfigError, match="positive temperature"):
        PairTuningConfig(temperature=0.0)
    with pytest.raises(ConfigError, match="at least 1 and no negative"):
        TuningConfig(last_layers=0)
    with pytest.raises(ConfigError, match="The last 2 of 1 layers cannot be trained alone"):
        last(replace(LAST, last_layers=2))
    with pytest.raises(ConfigError, match="a weighted mean hears all states"):
        frozen_layers(SpeechEmbedder(tiny_model.wavlm(), SpeechEmbedderConfig(dim=16, projection="none")), 1)
    with pytest.raises(ConfigError, match="at least 2 classes"):
        CrossEntropyTuningConfig(num_classes=1)
