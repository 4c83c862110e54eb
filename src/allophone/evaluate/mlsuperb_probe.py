"""The probe of ML-SUPERB: a learned mixture of frozen layers, convolution, two Transformer layers, CTC, greedy reading.

Hidden states are given, not computed: the encoder runs once for each clip however many epochs follow. Every published
number stands in :meth:`SuperbProbeConfig.published`; :meth:`SuperbProbeConfig.fast` is ours and gives other scores.

Source: ESPnet ``egs2/ml_superb/asr1/conf/tuning/train_asr_s3prl_10min.yaml`` and ``_1h.yaml`` (``conv2d2``, pre-norm);
Shi et al. 2023, arXiv:2305.10615. As in its code, SpecAugment comes first, on the mixed hidden states; an utterance
then loses its mean (variances stay); a linear map to 80 follows. Batches hold clips of like length. Deviations: no time
warp; in time the convolution's stride is 2 at 50 frames a second and 1 for slower encoders, so that every row reads
about 25 times a second.

Shape legend: L layers, T frames, B utterances of a batch, D dim, V symbols with the blank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from allophone.errors import ConfigError, DataError, NumericsError
from allophone.evaluate.mlsuperb_answers import Answer
from allophone.evaluate.mlsuperb_reference import Amount
from allophone.nn.ctc import BLANK
from allophone.seeding import derive, torch_generator

Task = Literal["monolingual", "multilingual", "language_identification", "joint"]
READS_A_SECOND = 25.0
INPUT_DIM = 80
FREQUENCY_MASKS, FREQUENCY_WIDTH = 2, 27
TIME_MASKS, TIME_SHARE = 10, 0.05


class Frames(Protocol):
    """Hidden states of clips: a list of what was extracted once, or something that extracts each time."""

    def __len__(self) -> int:
        """Clips."""
        ...

    def __getitem__(self, index: int, /) -> Tensor:
        """Of one clip, shape ``(L, T, D)``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperbProbeConfig:
    """How the probe is trained."""

    epochs: int = 30
    iterations: int = 10_000
    """Batches in an epoch."""
    batch_size: int = 8
    accumulate: int = 4
    """Batches before an update."""
    learning_rate: float = 1e-4
    """Of Adam, constant. Published rows searched it; give every row the same search."""
    weight_decay: float = 1e-6
    average: int = 5
    """Epochs of least loss on the dev set whose weights are averaged."""
    channels: int = 256
    """Of both convolutions."""
    dim: int = 256
    heads: int = 8
    inner_dim: int = 1024
    layers: int = 2
    dropout: float = 0.1
    augment: bool = True
    """Masks in frequency and time."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.iterations, self.batch_size, self.accumulate, self.average, self.layers) < 1:
            raise ConfigError(f"SuperbProbeConfig: every count must be at least 1; got {self}.")

    @classmethod
    def published(cls, task: Task, amount: Amount, seed: int = 0) -> SuperbProbeConfig:
        """The benchmark's own schedule: 500 batches an epoch in the monolingual task, else 10,000 or 20,000."""
        iterations = 500 if task == "monolingual" else {"10min": 10_000, "1h": 20_000}[amount]
        return cls(iterations=iterations, seed=seed)

    @classmethod
    def published_2(cls, seed: int = 0) -> SuperbProbeConfig:
        """The schedule of the 2.0 baseline; what its paper does not say is as in version 1."""
        return cls(epochs=20, iterations=20_000, learning_rate=2e-4, seed=seed)

    @classmethod
    def fast(cls, task: Task, seed: int = 0) -> SuperbProbeConfig:
        """A small probe and a short schedule: minutes on a CPU, to compare models with each other.

        Its numbers are not the benchmark's.
        """
        names_language = task in ("language_identification", "joint")  # CTC is slow to find one symbol an utterance
        return cls(
            epochs=4,
            iterations=500 if names_language else 60 if task == "monolingual" else 120,
            accumulate=1,
            learning_rate=1e-3 if names_language else 2e-3,
            average=2,
            channels=16,
            dim=128,
            heads=4,
            inner_dim=512,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeClips:
    """Clips of one split: what is said in which language, and their hidden states."""

    ids: tuple[str, ...]
    languages: tuple[str, ...]
    texts: tuple[str, ...]
    """As they are to be read; normalize before (``allophone.text.published.ml_superb_1``)."""
    datasets: tuple[str, ...]
    frames: Frames

    def __post_init__(self) -> None:
        sizes = {len(self.ids), len(self.languages), len(self.texts), len(self.datasets), len(self.frames)}
        if len(sizes) != 1 or not self.ids:
            raise DataError(f"ProbeClips: fields of {sorted(sizes)} entries; expected as many of each, at least one.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SuperbProbeResult:
    """What the probe read, and how it came to it."""

    answers: tuple[Answer, ...]
    """One a test clip, for :func:`~allophone.evaluate.mlsuperb.superb_scores`."""
    dev_losses: tuple[float, ...]
    """Of each epoch."""
    layer_weights: tuple[float, ...]
    """Share of each layer."""
    left_out: int
    """Training clips with more symbols than the probe reads frames."""


def superb_probe(
    task: Task,
    train: ProbeClips,
    dev: ProbeClips,
    test: ProbeClips,
    *,
    frame_rate: float,
    config: SuperbProbeConfig,
) -> SuperbProbeResult:
    """Train the probe on one task and let it read the test clips.

    Args:
        task: Decides the targets: text, ``[language]``, or both.
        train: What it learns from.
        dev: Chooses the epochs that are averaged.
        test: What it reads.
        frame_rate: Frames a second of the hidden states.
        config: Schedule and size.

    Raises:
        DataError: No training clip is long enough for its text.
        NumericsError: The loss is not finite.
    """
    symbols = _symbols(task, train)
    stride = max(1, min(2, round(frame_rate / READS_A_SECOND)))
    layers, _, dim = train.frames[0].shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "superb-probe") % 2**63)
        head = SuperbProbe(layers, dim, len(symbols) + 1, stride, config)
        lengths, dev_lengths, test_lengths = (_lengths(clips) for clips in (train, dev, test))
        kept, usable = _fitting(task, train, lengths, stride), _fitting(task, dev, dev_lengths, stride)
        if not kept:
            raise DataError(f"superb_probe: none of {len(train.ids)} training clips has as many frames as symbols.")
        batches = _batches(kept, lengths, config.batch_size)
        dev_batches = _batches(usable, dev_lengths, config.batch_size)
        losses = _train(head, task, symbols, (train, batches), (dev, dev_batches), config)
        test_batches = _batches(range(len(test.ids)), test_lengths, config.batch_size)
        answers = _read(head, task, symbols, test, test_batches)
    return SuperbProbeResult(
        answers=tuple(answers),
        dev_losses=tuple(losses),
        layer_weights=tuple(head.layer_weights.softmax(dim=0).tolist()),
        left_out=len(train.ids) - len(kept),
    )


class SuperbProbe(nn.Module):
    """Hidden states to log-probabilities of symbols."""

    def __init__(self, layers: int, dim: int, symbols: int, stride: int, config: SuperbProbeConfig) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        self.project = nn.Linear(dim, INPUT_DIM)
        self.convolve = nn.Sequential(
            nn.Conv2d(1, config.channels, 3, stride=(stride, 2)),
            nn.ReLU(),
            nn.Conv2d(config.channels, config.channels, 3),
            nn.ReLU(),
        )
        self.flatten = nn.Linear(config.channels * ((INPUT_DIM - 3) // 2 - 1), config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.dim, config.heads, config.inner_dim, config.dropout, batch_first=True, norm_first=True
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.output = nn.Linear(config.dim, symbols)
        self.stride = stride
        self.augments = config.augment

    def forward(self, frames: Sequence[Tensor], generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(B, T', V)`` and how many of them are real, ``(B,)``, of clips ``(L, T, D)``.

        Padding changes no real output: a convolution sees real frames alone, attention leaves the others out.
        """
        weights = self.layer_weights.softmax(dim=0)
        mixed = [torch.einsum("l,ltd->td", weights, one.float()) for one in frames]
        if generator is not None and self.augments:
            mixed = [_augmented(one, generator) for one in mixed]
        projected = [self.project(one - one.mean(dim=0)) for one in mixed]
        lengths = torch.tensor([_outputs(len(one), self.stride) for one in projected])
        hidden = self.convolve(pad_sequence(projected, batch_first=True)[:, None])
        hidden = self.flatten(hidden.transpose(1, 2).flatten(2))
        hidden = self.dropout(hidden * math.sqrt(hidden.shape[-1]) + _positions(hidden.shape[1], hidden.shape[2]))
        padding = torch.arange(hidden.shape[1])[None] >= lengths[:, None]
        for layer in self.transformer:
            hidden = layer(hidden, src_key_padding_mask=padding)
        return self.output(self.norm(hidden)).log_softmax(dim=-1), lengths


def _outputs(frames: int, stride: int) -> int:
    """Outputs of the two convolutions."""
    return max(0, (frames - 3) // stride + 1 - 2)


def _positions(length: int, dim: int) -> Tensor:
    """Sinusoids, shape ``(length, dim)``."""
    angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _augmented(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Some dimensions and some stretches of time set to zero. Shape ``(T, D)``."""
    keep = torch.ones_like(frames)
    for axis, count, widest in (
        (1, FREQUENCY_MASKS, FREQUENCY_WIDTH),
        (0, TIME_MASKS, int(TIME_SHARE * len(frames))),
    ):
        for _ in range(count):
            width = min(int(torch.randint(widest + 1, (), generator=generator)), frames.shape[axis] - 1)
            start = int(torch.randint(frames.shape[axis] - width, (), generator=generator))
            keep.narrow(axis, start, width).zero_()
    return frames * keep


def _spelled(task: Task, clips: ProbeClips, index: int) -> list[str]:
    """Target symbols of a clip."""
    language = [f"[{clips.languages[index]}]"] if task in ("language_identification", "joint") else []
    return language + ([] if task == "language_identification" else list(clips.texts[index]))


def _symbols(task: Task, clips: ProbeClips) -> list[str]:
    """All symbols but the blank; the first is number 1."""
    return sorted({symbol for index in range(len(clips.ids)) for symbol in _spelled(task, clips, index)})


def _lengths(clips: ProbeClips) -> list[int]:
    """Frames of each clip."""
    return [clips.frames[index].shape[1] for index in range(len(clips.frames))]


def _fitting(task: Task, clips: ProbeClips, lengths: Sequence[int], stride: int) -> list[int]:
    """Clips in which CTC has room: an output a symbol, and one between equal neighbours."""
    found = []
    for index, length in enumerate(lengths):
        spelled = _spelled(task, clips, index)
        needed = len(spelled) + sum(first == second for first, second in pairwise(spelled))
        if 0 < needed <= _outputs(length, stride):
            found.append(index)
    return found


def _train(
    head: SuperbProbe,
    task: Task,
    symbols: Sequence[str],
    train: tuple[ProbeClips, list[list[int]]],
    dev: tuple[ProbeClips, list[list[int]]],
    config: SuperbProbeConfig,
) -> list[float]:
    """Fit in place, then put the average of the best epochs in; the loss of each epoch on the dev set."""
    generator = torch_generator(config.seed, "superb-probe", "order")
    optimizer = torch.optim.Adam(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    ids = {symbol: number for number, symbol in enumerate(symbols, start=1)}
    order: list[list[int]] = []
    best: list[tuple[float, int, dict[str, Tensor]]] = []
    losses = []
    for epoch in range(config.epochs):
        head.train()
        for iteration in range(config.iterations):
            order = order or [train[1][i] for i in torch.randperm(len(train[1]), generator=generator).tolist()]
            loss = _loss(head, task, ids, train[0], order.pop(), generator)
            if not bool(loss.isfinite()):
                raise NumericsError(f"superb_probe: loss {loss.item()} in epoch {epoch}; look for NaN in the frames.")
            (loss / config.accumulate).backward()
            if (iteration + 1) % config.accumulate == 0 or iteration + 1 == config.iterations:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        head.eval()
        with torch.inference_mode():
            sums = [float(_loss(head, task, ids, dev[0], part)) * len(part) for part in dev[1]]
        losses.append(sum(sums) / sum(map(len, dev[1])) if dev[1] else -float(epoch))
        best.append((losses[-1], epoch, {name: value.clone() for name, value in head.state_dict().items()}))
        best = sorted(best, key=lambda entry: entry[:2])[: config.average]
    head.load_state_dict(
        {name: torch.stack([state[name] for _, _, state in best]).mean(dim=0) for name in head.state_dict()}
    )
    return losses


def _batches(kept: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Clips of like length together, as ESPnet's ``batch_type: sorted`` has them: little of a batch is padding."""
    ordered = sorted(kept, key=lambda index: lengths[index])
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _loss(
    head: SuperbProbe,
    task: Task,
    ids: dict[str, int],
    clips: ProbeClips,
    batch: Sequence[int],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean over utterances of the CTC loss; symbols that training did not have are left out of the target."""
    log_probabilities, lengths = head([clips.frames[index] for index in batch], generator)
    targets = [[ids[symbol] for symbol in _spelled(task, clips, index) if symbol in ids] for index in batch]
    summed = nn.functional.ctc_loss(
        log_probabilities.transpose(0, 1),
        torch.tensor([symbol for target in targets for symbol in target], dtype=torch.int64),
        lengths,
        torch.tensor([len(target) for target in targets]),
        BLANK,
        reduction="sum",
    )
    return summed / len(batch)


@torch.inference_mode()
def _read(
    head: SuperbProbe, task: Task, symbols: Sequence[str], clips: ProbeClips, batches: Sequence[Sequence[int]]
) -> list[Answer]:
    head.eval()
    found: dict[int, Answer] = {}
    for batch in batches:
        log_probabilities, lengths = head([_at_least(clips.frames[index], head.stride) for index in batch])
        for index, row, length in zip(batch, log_probabilities.argmax(dim=-1), lengths.tolist(), strict=True):
            path = torch.unique_consecutive(row[:length]).tolist()
            heard = [symbols[symbol - 1] for symbol in path if symbol != BLANK]
            named = next((one[1:-1] for one in heard if len(one) > 1), None)
            found[index] = Answer(
                id=clips.ids[index],
                language=clips.languages[index],
                reference="" if task == "language_identification" else clips.texts[index],
                hypothesis="".join(one for one in heard if len(one) == 1),
                guess=named,
                dataset=clips.datasets[index],
            )
    return [found[index] for index in sorted(found)]


def _at_least(frames: Tensor, stride: int) -> Tensor:
    """Frames repeated at the end until the convolutions have one output."""
    missing = 3 + 2 * stride - frames.shape[1]
    return torch.cat([frames, frames[:, -1:].expand(-1, missing, -1)], dim=1) if missing > 0 else frames
