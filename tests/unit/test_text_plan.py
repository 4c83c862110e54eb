"""The plan of training on what utterances say counts an encoder that stays once for each recording."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_model
from torch import Tensor, nn

from allophone.frames import SAMPLE_RATE
from allophone.methods.base import StepOutput
from allophone.models.frozen import FrozenStates
from allophone.run.text_plan import plan_texts
from allophone.train.config import TrainConfig

TRAIN = TrainConfig(steps=10, microbatches=2)


class Head(nn.Module):
    """A layer behind frozen states."""

    def __init__(self, frozen: FrozenStates) -> None:
        super().__init__()
        self.layer = nn.Linear(frozen.encoder.dim, 1)
        self.frozen = frozen

    def step(self, batch: Any) -> StepOutput:
        (states,) = self.frozen(batch.waveform, batch.waveform_lengths)
        loss: Tensor = self.layer(states.values).sum()
        return StepOutput(loss_sum=loss, sums={})


def test_an_encoder_that_stays_is_counted_once_as_far_as_its_states_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allophone.run.text_plan.timed", lambda work: (work(), 1.0)[1])
    encoder, batch = tiny_model.lasr().eval(), tiny_model.batch()
    audio = int(batch.waveform_lengths.sum()) / SAMPLE_RATE
    whole = FrozenStates(encoder, [encoder.num_layers])
    whole(batch.waveform, batch.waveform_lengths)
    size = whole.kept_bytes
    assert size > 0

    def seconds(room: int, batches: float) -> dict[str, float]:
        frozen = FrozenStates(encoder, [encoder.num_layers], most_bytes=room)
        hours = batches * audio / 3600
        settings: dict[str, Any] = {"seeds": 3, "encoders": 2, "notes": (), "frozen": frozen, "hours": hours}
        plan = plan_texts("plan", Head(frozen), batch, TRAIN, **settings)
        return {stage.name: stage.seconds for stage in plan.stages}

    assert seconds(100 * size, 4) == pytest.approx({"encoder, once": 2 * 4, "training": 2 * 3 * 20})
    assert seconds(2 * size, 4) == pytest.approx({"encoder, once": 2 * 2, "training": 2 * 3 * 20 * 1.5})
    assert seconds(100 * size, 500)["encoder, once"] == pytest.approx(2 * 20)  # no more than a training hears
    alone = plan_texts("plan", Head(whole), batch, TRAIN, seeds=3, notes=())
    assert [stage.seconds for stage in alone.stages] == [3 * 20]
