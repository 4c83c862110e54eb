"""Packed frames from one rate to another: counts, places in time, gradients, utterances apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from allophone.batch import Packed
from allophone.errors import ConfigError, ShapeError
from allophone.frames import FrameClock
from allophone.models.hubert import RESOLUTIONS
from allophone.nn.convolution import convolution_clock
from allophone.nn.resampling import RateAdapter, Upsampling, cut, rate_ratio, sub_frames

CLOCKS = {
    20: FrameClock(hop=320, receptive_field=400),
    **{ms: convolution_clock(RESOLUTIONS[ms]["conv_kernel"], RESOLUTIONS[ms]["conv_stride"]) for ms in (40, 80)},
}
PAIRS = [(40, 20), (80, 40), (80, 20)]


def packed(*lengths: int, dim: int = 3, dtype: torch.dtype = torch.float32) -> Packed:
    return Packed(torch.randn(sum(lengths), dim, dtype=dtype), lengths)


@pytest.mark.parametrize(("slow", "fast"), PAIRS)
def test_every_fast_frame_takes_the_nearest_sub_frame(slow: int, fast: int) -> None:
    """Against a search over all sub-frames, for every length from one slow frame on."""
    one, other = CLOCKS[slow], CLOCKS[fast]
    ratio = rate_ratio(one, other)
    for samples in [*range(one.receptive_field, 12_000, 37), 16_000, 47_999]:
        slow_frames, fast_frames = one.count(samples), other.count(samples)
        index = sub_frames(one, other, slow_frames, fast_frames)
        assert len(index) == fast_frames
        centers = torch.tensor(
            [one.center(j) + ((k + 0.5) / ratio - 0.5) * one.hop for j in range(slow_frames) for k in range(ratio)]
        )
        wanted = torch.tensor([other.center(t) for t in range(fast_frames)])
        distance = (wanted[:, None] - centers[None, :]).abs()
        assert torch.equal(index, distance.argmin(dim=1)), samples  # argmin takes the earlier of two


@pytest.mark.parametrize("kind", ["repeat", "linear"])
@pytest.mark.parametrize(("slow", "fast"), PAIRS)
def test_upsampling_has_the_frames_of_the_fast_clock(slow: int, fast: int, kind: str) -> None:
    module = Upsampling(CLOCKS[slow], CLOCKS[fast], 3, 3, kind)
    for samples in range(CLOCKS[slow].receptive_field, 14_000, 211):
        other = 2 * samples
        hidden = packed(*(CLOCKS[slow].count(n) for n in (samples, other)))
        wanted = [CLOCKS[fast].count(n) for n in (samples, other)]
        assert module(hidden, wanted).lengths == tuple(wanted)


def test_repeated_frames_are_copies_and_utterances_stay_apart() -> None:
    module = Upsampling(CLOCKS[40], CLOCKS[20], 3, 3, "repeat")
    hidden = packed(2, 3)
    output = module(hidden, [6, 7])
    assert torch.equal(output.values[:6], hidden.values[torch.tensor([0, 0, 0, 1, 1, 1])])
    assert torch.equal(output.values[6:], hidden.values[2 + torch.tensor([0, 0, 0, 1, 1, 2, 2])])


def test_linear_upsampling_is_a_transposed_convolution() -> None:
    """Whose kernel is its stride; both of its gradients as autograd has them of torch's own."""
    module = Upsampling(CLOCKS[80], CLOCKS[20], 3, 5, "linear").double()
    assert module.linear is not None
    hidden = packed(4, dtype=torch.float64)
    hidden.values.requires_grad_()
    frames = CLOCKS[20].count(CLOCKS[80].samples(4))
    kernel = module.linear.weight.view(4, 5, 3).permute(2, 1, 0).detach().requires_grad_()
    raised = functional.conv_transpose1d(hidden.values.T[None], kernel, stride=4)[0].T
    index = sub_frames(CLOCKS[80], CLOCKS[20], 4, frames)
    weight = torch.randn(frames, 5, dtype=torch.float64)
    ours, theirs = module(hidden, [frames]).values, raised[index]
    torch.testing.assert_close(ours, theirs)
    one = torch.autograd.grad((ours * weight).sum(), [hidden.values, module.linear.weight])
    other = torch.autograd.grad((theirs * weight).sum(), [hidden.values, kernel])
    torch.testing.assert_close(one[0], other[0])
    torch.testing.assert_close(one[1].view(4, 5, 3).permute(2, 1, 0), other[1])


@pytest.mark.parametrize("kind", ["repeat", "linear"])
def test_upsampling_by_finite_differences(kind: str) -> None:
    module = Upsampling(CLOCKS[40], CLOCKS[20], 2, 2, kind).double()

    def function(values: Tensor) -> Tensor:
        return module(Packed(values, (1, 3)), [4, 8]).values

    assert torch.autograd.gradcheck(function, torch.randn(4, 2, dtype=torch.float64, requires_grad=True))


def fairseq_adapter(module: RateAdapter, frames: Tensor) -> Tensor:
    """fairseq's ConvAdapter on one utterance ``(T, D)``, step by step."""
    x = frames.T[None]
    around_up = x.repeat_interleave(module.up, dim=2)
    x = functional.gelu(functional.group_norm(module.up_conv(x), 1, module.up_norm.weight, module.up_norm.bias))
    x = (x[..., : around_up.shape[2]] + around_up) * 0.4**0.5
    around_down = x[..., :: module.down]
    x = functional.gelu(functional.group_norm(module.down_conv(x), 1, module.down_norm.weight, module.down_norm.bias))
    x = (x + around_down) * 0.4**0.5
    x = (x + around_up[..., :: module.down]) * 0.4**0.5
    return x[0].T


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("up", "down"), [(1, 2), (2, 1), (1, 4), (4, 1), (2, 5)])
def test_adapters_have_ceil_frames_for_every_length(up: int, down: int, kernel: int) -> None:
    module = RateAdapter(4, up, down, kernel)
    for length in range(1, 40):
        hidden = packed(length, dim=4)
        output = module(hidden)
        assert output.lengths == (-(-length * up // down),)
        if up == 1 or kernel == 1:
            torch.testing.assert_close(output.values, fairseq_adapter(module, hidden.values))


def test_halving_has_the_frames_of_a_clock_of_twice_the_hop() -> None:
    module, twice = RateAdapter(2, 1, 2), FrameClock(hop=640, receptive_field=400)
    for samples in range(400, 9_000, 13):
        assert module(packed(CLOCKS[20].count(samples), dim=2)).lengths == (twice.count(samples),)


@pytest.mark.parametrize(("up", "down"), [(1, 2), (2, 1)])
def test_adapters_keep_utterances_apart_with_gradients(up: int, down: int) -> None:
    module = RateAdapter(4, up, down, 3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    hidden = packed(5, 1, 8, 5, dim=4)
    together = module(hidden)
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(together.values.square().sum(), parameters)
    alone = [module(Packed(part, (len(part),))) for part in hidden.split()]
    torch.testing.assert_close(together.values, torch.cat([one.values for one in alone]))
    apart = torch.autograd.grad(sum(one.values.square().sum() for one in alone), parameters)
    for one, other in zip(gradients, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("up", "down"), [(1, 2), (2, 1)])
def test_adapters_by_finite_differences(up: int, down: int) -> None:
    module = RateAdapter(3, up, down, 3).double()

    def function(values: Tensor) -> Tensor:
        return module(Packed(values, (2, 3))).values

    assert torch.autograd.gradcheck(function, torch.randn(5, 3, dtype=torch.float64, requires_grad=True))


def test_cutting_keeps_the_first_frames() -> None:
    hidden = packed(3, 4)
    assert cut(hidden, (3, 4)) is hidden
    shorter = cut(hidden, [2, 4])
    assert torch.equal(shorter.values, hidden.values[torch.tensor([0, 1, 3, 4, 5, 6])])


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="640 is not a multiple of 480"):
        rate_ratio(CLOCKS[40], FrameClock(hop=480, receptive_field=480))
    with pytest.raises(ConfigError, match=r"keep their width 3; 5 is wanted\. Use upsampling 'linear'"):
        Upsampling(CLOCKS[40], CLOCKS[20], 3, 5, "repeat")
    with pytest.raises(ShapeError, match=r"2 utterances of \(2, 3\) frames to \(4,\)"):
        Upsampling(CLOCKS[40], CLOCKS[20], 3, 3, "repeat")(packed(2, 3), [4])
    with pytest.raises(ConfigError, match="odd kernel and factors >= 1; got 2, 1, 2"):
        RateAdapter(4, 1, 2, 2)
