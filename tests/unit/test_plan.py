"""A plan grows with the work, names what it leaves out and changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allophone.data.collate import CollateConfig
from allophone.models.build import build_encoder
from allophone.models.wav2vec2_bert import Wav2Vec2BertConfig
from allophone.run.base import Base
from allophone.run.config import DataConfig, RunConfig, TargetsConfig
from allophone.run.expansion_config import ExpandConfig
from allophone.run.plan import plan_evaluation, plan_expansion, plan_pretraining, random_batch
from allophone.train.config import TrainConfig

ENCODER = Wav2Vec2BertConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    feature_stride=4,
    conv_depthwise_kernel_size=3,
)
RUN = RunConfig(
    name="iteration-1",
    seed=0,
    encoder=ENCODER,
    targets=TargetsConfig(front_end="mfcc39", num_units=8, labels_per_frame=2, iterations=2),
    data=DataConfig(collate=CollateConfig(crop_seconds=1.0), batch_seconds=3.0),
    train=TrainConfig(steps=10),
    projection_dim=8,
)
SECOND = replace(RUN, name="iteration-2", targets=replace(RUN.targets, front_end="model", layer=1))


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every probe takes a second, so that what is tested is the arithmetic and not the machine."""
    monkeypatch.setattr("allophone.run.plan.timed", lambda work, repeats=3: work() or 1.0)


def test_the_plan_of_a_pretraining_adds_up_its_stages(one_second: None) -> None:
    plan = plan_pretraining([RUN, SECOND], hours=1.0)
    assert [stage.name for stage in plan.stages] == [
        "iteration-1: units",
        "iteration-1: training",
        "iteration-2: units",
        "iteration-2: training",
    ]
    # Ten seconds of audio a second: an hour clustered and labelled, and once more where frames are not kept (MFCC).
    assert [stage.seconds for stage in plan.stages] == [720, 10, 360, 10]
    assert plan.seconds == 1100
    text = str(plan)
    assert "10 steps of 1 x 3 s" in text
    assert "18.3 min" in text
    assert "come on top" in text


def test_the_plan_of_an_expansion_has_its_control_and_leaves_the_base_alone(one_second: None) -> None:
    encoder = build_encoder(ENCODER)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    config = ExpandConfig(steps=5, num_units=8, batch_seconds=2.0, crop_seconds=1.0, iterations=2, targets="mfcc39")
    plan = plan_expansion(Base(encoder=encoder, codebook=None, heads=None), config, hours=1.0)
    assert [stage.name.split(": ")[1] for stage in plan.stages] == [
        *("units", "LoRA", "two controls") * 2,
        "head for its own units",
    ]
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in encoder.parameters())


def test_the_plan_of_an_evaluation_counts_encoders_and_seeds(one_second: None) -> None:
    base = Base(encoder=build_encoder(ENCODER), codebook=None, heads=None)
    assert plan_evaluation(base, seeds=3, hours=0.5).seconds == 4 * 180


def test_the_probed_batch_is_as_large_as_the_run_says() -> None:
    batch = random_batch(RUN, build_encoder(ENCODER).clock)
    assert batch.waveform.shape == (3, 16_000)
    assert batch.units is not None
    assert batch.units.shape[-1] == 2


def test_probing_measures_something() -> None:
    short = plan_pretraining([RUN], hours=0.01)
    assert all(stage.seconds > 0 for stage in short.stages)
    assert short.memory_bytes > 2**20
    assert short.disk_bytes > short.parameters * 12
