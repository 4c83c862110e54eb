from __future__ import annotations

import itertools

import pytest

from allophone.errors import ConfigError
from allophone.train.config import TrainConfig
from allophone.train.schedule import learning_rate

SHAPES = ["constant", "linear", "cosine", "tri_stage"]


def config(schedule: str, **changes: float) -> TrainConfig:
    settings = {"steps": 100, "learning_rate": 2.0, "warmup_steps": 10, "final_lr_scale": 0.1} | changes
    return TrainConfig(schedule=schedule, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", SHAPES)
def test_warms_up_to_the_peak_and_ends_where_it_should(schedule: str) -> None:
    rates = [learning_rate(step, config(schedule)) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert max(rates) == rates[9] == 2.0
    assert rates[-1] == pytest.approx(2.0 if schedule == "constant" else 0.2)
    assert all(after <= before for before, after in itertools.pairwise(rates[9:]))


def test_middles() -> None:
    assert learning_rate(55, config("linear", final_lr_scale=0.0)) == pytest.approx(1.0)
    assert learning_rate(55, config("cosine", final_lr_scale=0.0)) == pytest.approx(1.0)
    assert learning_rate(55, config("tri_stage")) == pytest.approx(2.0 * 0.1**0.5)


def test_tri_stage_holds() -> None:
    rates = [learning_rate(step, config("tri_stage", hold_steps=40)) for step in range(1, 101)]
    assert rates.count(2.0) == 41 and rates[50] < 2.0


def test_no_warmup() -> None:
    assert learning_rate(1, config("constant", warmup_steps=0)) == 2.0


def test_nothing_but_warmup() -> None:
    assert learning_rate(100, config("linear", warmup_steps=100)) == 2.0


@pytest.mark.parametrize("step", [0, 101])
def test_step_outside_the_run(step: int) -> None:
    with pytest.raises(ConfigError, match=f"Step {step} is outside the run of 100 steps"):
        learning_rate(step, config("linear"))


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"train\.steps must be at least 1"):
        TrainConfig(steps=0)
    with pytest.raises(ConfigError, match=r"train\.learning_rate must be positive"):
        TrainConfig(steps=1, learning_rate=0.0)
    with pytest.raises(ConfigError, match=r"fit into train\.steps"):
        TrainConfig(steps=10, warmup_steps=11)
    with pytest.raises(ConfigError, match=r"needs train\.final_lr_scale above 0"):
        TrainConfig(steps=10, schedule="tri_stage")


def test_fewer_steps_keep_the_shares_of_the_phases() -> None:
    short = config("tri_stage", hold_steps=40).shortened(20)
    assert (short.steps, short.warmup_steps, short.hold_steps, short.learning_rate) == (20, 2, 8, 2.0)
