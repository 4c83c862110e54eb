"""Frame sources and the treatment that every row gets."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from allophone.batch import Packed
from allophone.errors import ConfigError, DataError, ShapeError
from allophone.evaluate.sources import (
    EncoderSource,
    FilterbankSource,
    RememberingSource,
    extract_all,
    frame_statistics,
    mean_of_each,
    mean_pool,
    slice_means,
    standardize_by_voice,
)
from allophone.frames import FrameClock
from allophone.models.output import EncoderOutput


class MeanEncoder(nn.Module):
    """Two layers: the mean of each 20 ms times a weight, and the same plus dropout; counts the layers it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FrameClock(hop=320, receptive_field=320)
        self.num_layers = 2
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.computed: list[int] = []

    def forward(
        self, waveform: Tensor, waveform_lengths: Tensor, masked: Tensor | None = None, num_layers: int | None = None
    ) -> EncoderOutput:
        """Packed states of the real frames."""
        counts = [self.clock.count(int(length)) for length in waveform_lengths]
        rows = [row[: count * 320].view(count, 320).mean(1) for row, count in zip(waveform, counts, strict=True)]
        state = torch.cat(rows)[:, None] * self.weight
        depth = self.num_layers if num_layers is None else num_layers
        self.computed.append(depth)
        states = [
            Packed(torch.nn.functional.dropout(state + i, 0.5, self.training), tuple(counts)) for i in range(depth + 1)
        ]
        return EncoderOutput(tuple(states))


def waveforms(lengths: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=generator) * 0.1 for length in lengths]


def test_encoder_source_gives_every_layer_in_evaluation_mode() -> None:
    encoder = MeanEncoder().train()
    source = EncoderSource("tiny", encoder)
    clips = waveforms([3200, 6400])
    frames = source.extract(clips)
    assert (source.name, source.layers, source.frame_rate) == ("tiny", 3, 50.0)
    assert [tuple(item.shape) for item in frames] == [(3, 10, 3), (3, 20, 3)]
    torch.testing.assert_close(frames[0][2, :, 1], clips[0].view(10, 320).mean(1) * 2 + 2)
    assert encoder.training and not frames[0].requires_grad


def test_encoder_source_computes_no_layer_above_the_chosen() -> None:
    encoder = MeanEncoder()
    frames = EncoderSource("tiny", encoder, [1]).extract(waveforms([3200]))
    assert encoder.computed == [1] and frames[0].shape[0] == 1


def test_extraction_leaves_global_randomness_and_mode_alone() -> None:
    encoder = MeanEncoder().train()
    before = torch.get_rng_state()
    EncoderSource("tiny", encoder).extract(waveforms([3200]))
    assert torch.equal(torch.get_rng_state(), before)


def test_mode_returns_even_when_the_encoder_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = MeanEncoder().train()
    monkeypatch.setattr(encoder.clock.__class__, "count", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        EncoderSource("tiny", encoder).extract(waveforms([3200]))
    assert encoder.training


@pytest.mark.parametrize("layers", [[3], [-1], [], "last"])
def test_encoder_source_refuses_layers_that_do_not_exist(layers: list[int] | str) -> None:
    with pytest.raises(ConfigError, match="expected 'all' or some of 0 to 2"):
        EncoderSource("tiny", MeanEncoder(), layers)


@pytest.mark.parametrize("normalize", [False, True])
def test_filter_bank_frames_have_the_encoders_rate(normalize: bool) -> None:
    source = FilterbankSource(4, normalize=normalize)
    frames = source.extract(waveforms([16_000, 8_000]))
    assert (source.layers, source.frame_rate) == (1, 25.0)
    assert [tuple(item.shape) for item in frames] == [(1, 24, 320), (1, 12, 320)]
    means = frames[0][0].view(-1, 80).mean(0).abs().max()
    assert (float(means) < 0.1) == normalize


def test_filter_bank_refuses_no_frames_in_a_stack() -> None:
    with pytest.raises(ConfigError, match="stack is 0"):
        FilterbankSource(0)


def test_extract_all_keeps_the_order_and_bounds_the_batches() -> None:
    clips = waveforms([6400, 3200, 9600, 3200, 6400])
    encoder = MeanEncoder()
    source = EncoderSource("tiny", encoder)
    calls: list[tuple[int, int]] = []
    frames = extract_all(source, clips, lambda done, total: calls.append((done, total)), batch_seconds=0.8)
    for clip, item in zip(clips, frames, strict=True):
        torch.testing.assert_close(item, source.extract([clip])[0])
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_extract_all_takes_a_clip_that_is_longer_than_a_batch() -> None:
    frames = extract_all(EncoderSource("tiny", MeanEncoder()), waveforms([32_000, 3200]), batch_seconds=0.5)
    assert [item.shape[1] for item in frames] == [100, 10]


def test_extract_all_of_nothing_is_nothing() -> None:
    assert extract_all(FilterbankSource(1), []) == []


@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 5)])
def test_standardizing_by_voice_removes_what_a_voice_adds(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = [torch.randn(shape, generator=generator) for _ in range(4)]
    moved = [item * 3 + 5 for item in plain]
    both = standardize_by_voice([*plain, *moved], ["a"] * 4 + ["b"] * 4)
    for one, other in zip(both[:4], both[4:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
    joined = torch.cat(both[:4], dim=-2)
    torch.testing.assert_close(joined.mean(-2), torch.zeros_like(joined.mean(-2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(joined.std(-2, correction=0), torch.ones_like(joined.mean(-2)), atol=1e-3, rtol=0)


def test_a_constant_dimension_becomes_zero() -> None:
    frames = [torch.full((4, 2), 7.0), torch.full((3, 2), 7.0)]
    assert all(float(item.abs().max()) < 1e-3 for item in standardize_by_voice(frames, ["a", "a"]))


def test_standardizing_needs_a_speaker_an_utterance_and_a_frame() -> None:
    with pytest.raises(DataError, match="2 utterances, 1 speakers"):
        standardize_by_voice([torch.ones(2, 2)] * 2, ["a"])
    with pytest.raises(ShapeError, match="without a single frame"):
        frame_statistics([torch.ones(0, 2)])


def test_slices_are_equal_parts_whatever_the_length() -> None:
    frames = torch.arange(48.0)[:, None].expand(48, 2)
    torch.testing.assert_close(slice_means(frames, 24)[:, 0], torch.arange(24) * 2 + 0.5)
    torch.testing.assert_close(slice_means(torch.eye(3), 6), torch.eye(3).repeat_interleave(2, dim=0))
    with pytest.raises(ShapeError, match=r"expected \(frames >= 1, dim\)"):
        slice_means(torch.ones(0, 3))


def test_mean_pool_keeps_layers() -> None:
    frames = [torch.ones(3, 2, 4), torch.zeros(3, 9, 4)]
    assert mean_pool(frames).shape == (2, 3, 4)
    assert mean_pool([item[0] for item in frames]).tolist() == [[1.0] * 4, [0.0] * 4]


def test_means_are_remembered_by_content_and_equal_those_of_the_source() -> None:
    encoder = MeanEncoder()
    plain = EncoderSource("plain", encoder)
    remembering = RememberingSource(plain)
    assert (remembering.name, remembering.layers, remembering.frame_rate) == ("plain", 3, 50.0)
    clips = waveforms([8000, 12000, 9000])
    first = mean_of_each(remembering, clips[:2])
    passes = len(encoder.computed)
    again = mean_of_each(remembering, [clips[1].clone(), clips[0]])
    assert len(encoder.computed) == passes
    torch.testing.assert_close(again, first.flip(0), rtol=0, atol=0)
    torch.testing.assert_close(first, mean_of_each(plain, clips[:2]), rtol=0, atol=0)
    assert mean_of_each(remembering, [clips[2], clips[0] / 2]).shape == (2, 3, 3)
    assert len(remembering.means) == 4
