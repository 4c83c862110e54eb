from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allophone.batch import SpeechBatch
from allophone.data.sampler import SamplerState
from allophone.errors import CheckpointError, ConfigError, DataError, NumericsError
from allophone.methods.base import ParameterGroup, StepOutput
from allophone.train import TrainConfig, precision, train
from allophone.train.loop import CHECKPOINTS

FRAMES = 6


class Toy(nn.Module):
    """Predicts the first sample of each masked frame, with dropout; ``trouble`` is called before each step."""

    def __init__(self, trouble: Callable[[int, SpeechBatch], Tensor | None] = lambda calls, batch: None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 4))
        self.trouble, self.calls = trouble, 0

    def count(self, batch: SpeechBatch) -> Tensor:
        assert batch.masked is not None
        return batch.masked.sum()

    def step(self, batch: SpeechBatch) -> StepOutput:
        assert batch.masked is not None
        self.calls += 1
        extra = self.trouble(self.calls, batch)
        frames = batch.waveform.view(len(batch.ids), FRAMES, 4)[batch.masked]
        loss = (self.net(frames) - frames).square().sum()
        return StepOutput(loss if extra is None else loss * extra, {"frames": (batch.masked.sum(), torch.tensor(1))})

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(tuple(self.parameters()))]

    def artifact(self) -> nn.Module:
        return self.net


class Numbers:
    """Batches from their position."""

    def __init__(self, masked: int = 3) -> None:
        self.position, self.masked = 0, masked

    def __next__(self) -> SpeechBatch:
        generator = torch.Generator().manual_seed(self.position)
        masked = torch.zeros(2, FRAMES, dtype=torch.bool)
        masked[:, : self.masked] = True
        batch = SpeechBatch(
            ids=(f"u{self.position}a", f"u{self.position}b"),
            waveform=torch.randn(2, FRAMES * 4, generator=generator),
            waveform_lengths=torch.full((2,), FRAMES * 4),
            frame_lengths=torch.full((2,), FRAMES),
            masked=masked,
        )
        self.position += 1
        return batch

    def state(self) -> SamplerState:
        return SamplerState(epoch=0, position=self.position, seed=0)

    def seek(self, state: SamplerState) -> None:
        self.position = state.position


def config(**changes: Any) -> TrainConfig:
    settings = {"steps": 12, "microbatches": 2, "learning_rate": 0.05, "log_every": 4, "save_every": 5}
    return TrainConfig(**{**settings, "tensorboard": False, "bf16": "off", **changes})


def checkpoints(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / CHECKPOINTS).iterdir())


def journal(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def weights(method: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in method.parameters()]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, Path]:
    run_dir, method = tmp_path_factory.mktemp("undisturbed"), Toy()
    train(method, Numbers(), config(), run_dir)
    return method, run_dir


def test_finishes_and_learns(tmp_path: Path) -> None:
    told: list[tuple[int, int, dict[str, float]]] = []
    result = train(Toy(), Numbers(), config(steps=60, log_every=20), tmp_path, progress=lambda *args: told.append(args))
    lines = journal(tmp_path)
    assert (result.steps, result.stopped) == (60, "finished")
    assert [line["step"] for line in lines] == [20, 40, 60]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[0]["frames"] == 6.0 and lines[-1]["learning_rate"] == 0.0 and lines[0]["gradient_norm"] > 0
    assert result.sums["frames"] == (40 * 6.0, 40.0)
    assert result.sums["loss"][0] / result.sums["loss"][1] == lines[-1]["loss"]
    assert checkpoints(tmp_path) == ["step-00000055", "step-00000060"]
    assert told[0][:2] == (1, 60) and told[-1][:2] == (60, 60) and told[-1][2]["seconds_left"] == 0


def test_finished_run_is_loaded_not_trained(undisturbed: tuple[Toy, Path]) -> None:
    method, run_dir = undisturbed
    again = Toy()
    result = train(again, Numbers(), config(), run_dir)
    assert (result.steps, result.stopped, again.calls) == (12, "finished", 0)
    assert equal(again, method)


def test_global_random_numbers_do_not_matter(undisturbed: tuple[Toy, Path], tmp_path: Path) -> None:
    def stir(calls: int, batch: SpeechBatch) -> None:
        assert batch.ids

    method = Toy(stir)
    torch.manual_seed(99)
    train(method, Numbers(), config(), tmp_path)
    assert equal(method, undisturbed[0])
    other = Toy()
    train(other, Numbers(), config(seed=1), tmp_path / "seed-1")  # dropout has its seed from the config
    assert not equal(other, undisturbed[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("call", [9, 10])  # first and last micro-batch of step 5
def test_signal_saves_and_resume_is_exact(
    undisturbed: tuple[Toy, Path], tmp_path: Path, number: signal.Signals, call: int
) -> None:
    def send(calls: int, batch: SpeechBatch) -> None:
        if calls == call:
            os.kill(os.getpid(), number)

    stopped = Toy(send)
    result = train(stopped, Numbers(), config(save_every=100), tmp_path)
    done = 4 if call == 9 else 5
    assert (result.steps, result.stopped) == (done, "signal")
    assert checkpoints(tmp_path) == [f"step-{done:08d}"]
    resumed = Toy()
    assert train(resumed, Numbers(), config(save_every=100), tmp_path).stopped == "finished"
    assert resumed.calls == 24 - 2 * done
    assert equal(resumed, undisturbed[0])
    assert journal(tmp_path) == journal(undisturbed[1])


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(Toy(), Numbers(), config(steps=1), tmp_path)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    def send(calls: int, batch: SpeechBatch) -> None:
        if calls == 12:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(Toy(send), Numbers(), config(), tmp_path)
    assert checkpoints(tmp_path) == ["step-00000005"]


def test_trains_outside_the_main_thread(undisturbed: tuple[Toy, Path], tmp_path: Path) -> None:
    method = Toy()
    thread = threading.Thread(target=train, args=(method, Numbers(), config(), tmp_path))
    thread.start()
    thread.join()
    assert equal(method, undisturbed[0])


def test_not_a_number_is_caught_before_the_step(tmp_path: Path) -> None:
    before: list[Tensor] = []

    def spoil(calls: int, batch: SpeechBatch) -> Tensor | None:
        if calls == 13:
            before.extend(weights(method))
        return torch.tensor(float("nan")) if calls == 14 else None  # second micro-batch of step 7

    method = Toy(spoil)
    with pytest.raises(NumericsError, match=r"Step 7: the loss is not finite.*Utterances: 'u13a', 'u13b'\.") as caught:
        train(method, Numbers(), config(), tmp_path)
    assert "u12a" not in str(caught.value)
    assert "begin another one, under another name" in str(caught.value) and "--learning-rate" in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(method), strict=True))
    assert journal(tmp_path)[-1] == {"step": 7, "event": "not_finite", "utterances": ["u13a", "u13b"]}
    mended = Toy()
    assert train(mended, Numbers(), config(), tmp_path).stopped == "finished"
    assert mended.calls == 2 * (12 - 5)
    assert "not_finite" not in (tmp_path / "metrics.jsonl").read_text()


def test_gradient_that_is_not_finite_names_all_batches(tmp_path: Path) -> None:
    class Steep(Toy):
        def step(self, batch: SpeechBatch) -> StepOutput:
            weight = self.net[0].weight
            return StepOutput((weight - weight.detach()).abs().sum().sqrt())  # 0, with an infinite slope

    with pytest.raises(
        NumericsError, match=r"no loss, but the gradient norm \((nan|inf)\).*'u0a', 'u0b', 'u1a', 'u1b'"
    ):
        train(Steep(), Numbers(), config(), tmp_path)


def test_step_without_items(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Step 1 has nothing to learn from.*'u0a'"):
        train(Toy(), Numbers(masked=0), config(), tmp_path)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    def first_moments(run_dir: Path, max_grad_norm: float) -> Tensor:
        from safetensors.torch import load_file

        train(Toy(), Numbers(), config(steps=1, max_grad_norm=max_grad_norm), run_dir)
        saved = load_file(run_dir / CHECKPOINTS / "step-00000001" / "optimizer.safetensors")
        return torch.cat([value.flatten() for name, value in saved.items() if name.startswith("exp_avg/")]) / 0.1

    free, clipped = first_moments(tmp_path / "free", 0.0), first_moments(tmp_path / "clipped", 0.01)
    assert free.norm() == pytest.approx(journal(tmp_path / "free")[-1]["gradient_norm"], rel=1e-4)
    assert clipped.norm() == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(clipped, free * (0.01 / free.norm()), rtol=1e-3)


def test_unused_parameters_are_written_down(tmp_path: Path) -> None:
    method = Toy()
    method.unused = nn.Parameter(torch.ones(2))
    train(method, Numbers(), config(steps=2), tmp_path)
    assert journal(tmp_path)[0] == {"step": 1, "event": "no_gradient", "parameters": ["unused"]}


def test_other_settings_are_refused(undisturbed: tuple[Toy, Path]) -> None:
    with pytest.raises(
        CheckpointError, match=r"2 settings differ: run\.corpus was 'not set', is 'xyz'; train\.eps was"
    ):
        train(Toy(), Numbers(), config(eps=1e-8), undisturbed[1], identity={"corpus": "xyz"})
    with pytest.raises(CheckpointError, match="batches_per_step was 2, is 3"):
        train(Toy(), Numbers(), config(microbatches=3), undisturbed[1])
    assert train(Toy(), Numbers(), config(log_every=1, save_every=1), undisturbed[1]).steps == 12


def test_other_model_is_refused(undisturbed: tuple[Toy, Path]) -> None:
    wider = Toy()
    wider.net = nn.Sequential(nn.Linear(4, 9), nn.Dropout(0.2), nn.Linear(9, 4))
    with pytest.raises(CheckpointError, match=r"saved weights do not fit this model.*size mismatch"):
        train(wider, Numbers(), config(), undisturbed[1])


def test_damaged_checkpoint_costs_one_slot(undisturbed: tuple[Toy, Path], tmp_path: Path) -> None:
    train(Toy(), Numbers(), config(), tmp_path)
    (tmp_path / CHECKPOINTS / "step-00000012" / "model.safetensors").write_bytes(b"")
    again = Toy()
    assert train(again, Numbers(), config(), tmp_path).stopped == "finished"
    assert again.calls == 4 and equal(again, undisturbed[0])
    warnings = [line for line in journal(tmp_path) if line.get("event") == "warning"]
    assert warnings[0]["step"] == 10 and "step-00000012 is damaged" in warnings[0]["message"]


def test_damage_of_all_checkpoints_never_begins_anew(tmp_path: Path) -> None:
    train(Toy(), Numbers(), config(), tmp_path)
    for slot in (tmp_path / CHECKPOINTS).iterdir():
        (slot / "model.safetensors").write_bytes(b"")
    before = journal(tmp_path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="none of the 2 checkpoints is whole"):
            train(Toy(), Numbers(), config(), tmp_path)
        assert journal(tmp_path) == before


def test_bf16_only_where_it_is_native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    method = Toy(lambda calls, batch: seen.append(torch.is_autocast_enabled("cpu")))
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    train(method, Numbers(), config(steps=1, bf16="auto"), tmp_path / "a")
    with pytest.raises(ConfigError, match="no native bfloat16"):
        train(method, Numbers(), config(steps=1, bf16="on"), tmp_path / "b")
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    train(method, Numbers(), config(steps=1, bf16="auto"), tmp_path / "c")
    assert seen == [False, False, True, True]
