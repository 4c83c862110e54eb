"""The probe of ML-SUPERB on frames in which letters and languages can be told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from allophone.errors import ConfigError, DataError, NumericsError
from allophone.evaluate.mlsuperb_probe import ProbeClips, SuperbProbe, SuperbProbeConfig, superb_probe

CONFIG = SuperbProbeConfig(
    epochs=5,
    iterations=40,
    accumulate=1,
    learning_rate=3e-3,
    average=2,
    channels=16,
    dim=32,
    heads=4,
    inner_dim=64,
    augment=False,
)
GENERATOR = torch.Generator().manual_seed(7)
LETTERS = {letter: torch.randn(16, generator=GENERATOR) for letter in "abc"}
TONGUES = {"deu": torch.randn(16, generator=GENERATOR), "fra": torch.randn(16, generator=GENERATOR)}


def clips(count: int, seed: int) -> ProbeClips:
    """Words of two to four letters; a letter is six frames of layer 1, the language twelve before; layer 0 is noise."""
    generator = torch.Generator().manual_seed(seed)
    texts, tongues, frames = [], [], []
    for _ in range(count):
        size = int(torch.randint(2, 5, (), generator=generator))
        letters = ["abc"[int(index)] for index in torch.randperm(3, generator=generator)[:size]]
        tongue = list(TONGUES)[int(torch.randint(2, (), generator=generator))]
        rows = [TONGUES[tongue]] * 12 + [LETTERS[letter] for letter in letters for _ in range(6)]
        heard = torch.stack(rows) + 0.2 * torch.randn(len(rows), 16, generator=generator)
        frames.append(torch.stack([torch.randn(len(rows), 16, generator=generator), heard]))
        texts.append("".join(letters))
        tongues.append(tongue)
    ids = tuple(f"{seed}-{index}" for index in range(count))
    return ProbeClips(ids=ids, languages=tuple(tongues), texts=tuple(texts), datasets=("",) * count, frames=frames)


TRAIN, DEV, TEST = clips(64, 0), clips(12, 1), clips(30, 2)


def wrong(result) -> float:
    return float(np.mean([one.hypothesis != one.reference for one in result.answers]))


@pytest.fixture(scope="module")
def joint():
    return superb_probe("joint", TRAIN, DEV, TEST, frame_rate=50, config=CONFIG)


def test_it_learns_text_and_language_and_where_they_are(joint) -> None:
    assert wrong(joint) < 0.2  # a guess among the 15 words is wrong in more than nine of ten
    assert np.mean([one.guess == one.language for one in joint.answers]) > 0.9
    assert joint.layer_weights[1] > joint.layer_weights[0] and sum(joint.layer_weights) == pytest.approx(1)
    assert len(joint.dev_losses) == 5 and joint.dev_losses[-1] < joint.dev_losses[0] and joint.left_out == 0
    assert [one.id for one in joint.answers] == list(TEST.ids)


def test_states_kept_in_memory_give_what_extracting_each_time_gives(joint) -> None:
    class EachTime:
        """Runs an encoder whenever a clip is asked for."""

        def __init__(self, frames) -> None:
            self.frames, self.calls = frames, 0

        def __len__(self) -> int:
            return len(self.frames)

        def __getitem__(self, index: int) -> Tensor:
            self.calls += 1
            return self.frames[index].clone()

    lazy = EachTime(TRAIN.frames)
    again = superb_probe("joint", replace(TRAIN, frames=lazy), DEV, TEST, frame_rate=50, config=CONFIG)
    assert again.answers == joint.answers and again.dev_losses == joint.dev_losses
    assert lazy.calls > CONFIG.epochs * CONFIG.iterations * CONFIG.batch_size


def test_language_identification_reads_one_token() -> None:
    result = superb_probe("language_identification", TRAIN, DEV, TEST, frame_rate=50, config=CONFIG)
    assert np.mean([one.guess == one.language for one in result.answers]) > 0.9
    assert {one.reference for one in result.answers} == {""} == {one.hypothesis for one in result.answers}


def test_padding_changes_no_output() -> None:
    torch.manual_seed(0)
    for stride in (1, 2):
        head = SuperbProbe(2, 16, 5, stride, CONFIG).eval()
        short, long = torch.randn(2, 17, 16), torch.randn(2, 40, 16)
        alone, alone_lengths = head([short])
        together, lengths = head([short, long])
        assert lengths.tolist()[0] == alone_lengths.item() == (17 - 3) // stride + 1 - 2
        torch.testing.assert_close(together[0, : lengths[0]], alone[0], rtol=1e-4, atol=1e-5)


def test_masks_hide_some_of_the_input_in_training_alone() -> None:
    torch.manual_seed(0)
    head = SuperbProbe(2, 64, 5, 1, replace(CONFIG, augment=True)).eval()
    frames = torch.randn(2, 60, 64)
    plain = head([frames])[0]
    torch.testing.assert_close(plain, head([frames])[0], rtol=0, atol=0)
    masked = head([frames], torch.Generator().manual_seed(0))[0]
    assert not torch.allclose(plain, masked)
    torch.testing.assert_close(masked, head([frames], torch.Generator().manual_seed(0))[0], rtol=0, atol=0)


def test_the_published_schedule_and_what_is_refused() -> None:
    published = SuperbProbeConfig.published("multilingual", "1h")
    assert (published.iterations, published.epochs, published.batch_size, published.accumulate) == (20_000, 30, 8, 4)
    assert SuperbProbeConfig.published("joint", "10min").iterations == 10_000
    assert SuperbProbeConfig.published("monolingual", "1h").iterations == 500
    assert (published.learning_rate, published.weight_decay, published.average) == (1e-4, 1e-6, 5)
    fast = SuperbProbeConfig.fast("joint", seed=2)
    assert fast.iterations * fast.epochs == 2000 and fast.seed == 2  # a name takes longer than text
    assert SuperbProbeConfig.fast("language_identification", seed=2) == fast
    assert SuperbProbeConfig.fast("monolingual").iterations < SuperbProbeConfig.fast("multilingual").iterations < 200
    with pytest.raises(ConfigError, match="every count must be at least 1"):
        SuperbProbeConfig(epochs=0)
    with pytest.raises(DataError, match="expected as many of each, at least one"):
        replace(DEV, texts=("a",))
    short = replace(TRAIN, frames=[one[:, :6] for one in TRAIN.frames])
    with pytest.raises(DataError, match="none of 64 training clips has as many frames as symbols"):
        superb_probe("joint", short, DEV, TEST, frame_rate=50, config=CONFIG)
    broken = replace(TRAIN, frames=[one * float("nan") for one in TRAIN.frames])
    with pytest.raises(NumericsError, match="look for NaN in the frames"):
        superb_probe("joint", broken, DEV, TEST, frame_rate=50, config=CONFIG)
