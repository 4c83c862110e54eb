"""Balanced subsets and drawn hours on the real recordings of the starter corpus; nothing is decoded."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from allophone.config import to_dict
from allophone.data.balance import BalancedSubset, TemperatureSampling, TwoLevelUpsampling, balanced_subset
from allophone.data.corpus import Corpus
from allophone.data.sampler import EPOCHS_COUNTED
from allophone.errors import ConfigError, DataError
from allophone.models.hubert import HubertConfig
from allophone.recipes.pretrain import hubert_base, recipe_configs, starter
from allophone.recipes.stages import TwoStage, balanced, iterated, named_balance, with_steps
from allophone.run.config import RunConfig
from allophone.run.drawn import drawn_table, hours_drawn
from allophone.run.starter import starter_corpus
from allophone.run.targets import build_sampler, left_out_note, usable
from allophone.train.checkpoint import differences

pytest.importorskip("allophone_starter")
LARGE = ["bul_Cyrl", "dan_Latn", "ell_Grek", "fra_Latn", "rus_Cyrl", "spa_Latn", "eng_Latn", "cat_Latn"]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return starter_corpus()


@pytest.fixture(scope="module")
def training(corpus: Corpus) -> Corpus:
    return corpus.where(split="train")


def seconds(rows, *names: str) -> dict:
    total: dict = {}
    for row in rows:
        key = tuple(getattr(row, name) for name in names)
        total[key] = total.get(key, 0.0) + row.duration_seconds
    return total


def test_every_language_gives_the_same_hours(training: Corpus) -> None:
    rows = training.where(language=LARGE).utterances
    hours = 0.03
    found = seconds(balanced_subset(rows, BalancedSubset(hours=hours)), "language")
    there, longest = seconds(rows, "language"), {}
    for row in rows:
        longest[row.language] = max(longest.get(row.language, 0.0), row.duration_seconds)
    for (language,), value in found.items():
        limit = min(hours * 3600, there[language,])
        assert limit - longest[language] <= value <= limit + 1e-6, language
    assert len(found) == len(LARGE)


def test_without_a_number_the_smallest_language_is_the_measure(training: Corpus) -> None:
    rows = training.where(language=["bel_Cyrl", "bul_Cyrl", "cat_Latn", "fra_Latn"]).utterances
    there, found = seconds(rows, "language"), seconds(balanced_subset(rows, BalancedSubset()), "language")
    smallest = min(there, key=there.__getitem__)
    assert found[smallest] == pytest.approx(there[smallest])
    assert all(there[smallest] - 12.0 <= value <= there[smallest] + 1e-6 for value in found.values())


def test_hours_are_of_what_is_heard(corpus: Corpus) -> None:
    """Clips count up to the crop, or languages with long clips would be heard less."""
    config = balanced([starter()[0]], TwoStage(subset=BalancedSubset(hours=0.03)))[-1]
    sampler = build_sampler(
        usable(corpus.where(language=["eng_Latn", "fra_Latn", "rus_Cyrl"]), config.data)[0], config.data, config.seed
    )
    for language in ("eng_Latn", "fra_Latn", "rus_Cyrl"):
        heard = sum(value for key, value in sampler.seconds_there().items() if key[0] == language)
        assert 108.0 - 6.0 < heard <= 108.0 + 1e-6


def test_larger_subsets_contain_smaller_ones(training: Corpus) -> None:
    smaller: set[str] = set()
    for hours in (0.0001, 0.002, 0.01, 0.05, 0.2):
        ids = {row.id for row in balanced_subset(training.utterances, BalancedSubset(hours=hours, seed=3))}
        assert smaller < ids
        smaller = ids


def test_sources_of_a_language_give_alike_until_they_end(training: Corpus) -> None:
    rows = training.where(language="rus_Cyrl").utterances
    found = seconds(balanced_subset(rows, BalancedSubset(hours=0.1)), "source")
    there = seconds(rows, "source")
    small = min(there, key=there.__getitem__)
    assert found[small] == pytest.approx(there[small])  # ends early, and whole
    others = [value for key, value in found.items() if key != small]
    assert max(others) - min(others) < 12.0 < min(others)


def test_the_draw_follows_from_seed_and_ids_alone(training: Corpus) -> None:
    rows = list(training.where(language=LARGE).utterances)
    choice = BalancedSubset(hours=0.02, seed=1)
    ids = {row.id for row in balanced_subset(rows, choice)}
    assert {row.id for row in balanced_subset(rows[::-1], choice)} == ids
    assert [row.id for row in balanced_subset(rows, choice)] == [row.id for row in rows if row.id in ids]
    assert {row.id for row in balanced_subset(rows, replace(choice, seed=2))} != ids
    without = [row for row in rows if row.language != "fra_Latn"]
    assert {row.id for row in balanced_subset(without, choice)} == {
        row.id for row in rows if row.id in ids and row.language != "fra_Latn"
    }


def test_nothing_of_a_test_split_is_drawn(corpus: Corpus) -> None:
    config = balanced([starter()[0]], TwoStage(subset=BalancedSubset(hours=0.02)))[-1]
    chosen, _ = usable(corpus, config.data)
    assert {row.split for row in chosen} == {"train"}
    with pytest.raises(DataError, match=r"is in split 'test'; a balanced subset for training is drawn from"):
        balanced_subset([row for row in corpus if row.split == "test"], BalancedSubset())


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan")])
def test_hours_must_be_positive(hours: float) -> None:
    with pytest.raises(ConfigError, match=r"expected a positive number\. Leave it out to take as much"):
        BalancedSubset(hours=hours)


def test_a_subset_larger_than_there_is(training: Corpus) -> None:
    with pytest.raises(
        DataError, match=r"5 h a language was asked for, but no language has as much: of \d+, \w+ has most"
    ):
        balanced_subset(training.utterances, BalancedSubset(hours=5))
    with pytest.raises(DataError, match="no utterance to draw a balanced subset from"):
        balanced_subset([], BalancedSubset())


def expected_shares(amounts: dict[tuple[str, str], float], alpha: float, beta: float) -> dict[tuple[str, str], float]:
    """The law with numpy: languages by n ** alpha, then sources by n ** beta."""
    languages = sorted({language for language, _ in amounts})
    totals = np.array([sum(n for (one, _), n in amounts.items() if one == language) for language in languages])
    outer = totals**alpha / (totals**alpha).sum()
    shares = {}
    for language, share in zip(languages, outer, strict=True):
        own = {key: n**beta for key, n in amounts.items() if key[0] == language}
        shares |= {key: float(share * n / sum(own.values())) for key, n in own.items()}
    return shares


@pytest.mark.parametrize(
    ("balance", "alpha", "beta"),
    [
        (TemperatureSampling(), 0.5, 1.0),
        (TemperatureSampling(alpha=0.0), 0.0, 1.0),
        (TwoLevelUpsampling(), 0.7, 0.9),
        (TwoLevelUpsampling(alpha=0.3, beta=0.0), 0.3, 0.0),
        (named_balance("none"), 1.0, 1.0),
    ],
)
def test_drawn_hours_follow_the_law(corpus: Corpus, balance, alpha: float, beta: float) -> None:
    (config,) = balanced([starter()[0]], balance)
    chosen, _ = usable(corpus.where(language=LARGE), config.data)
    sampler = build_sampler(chosen, config.data, config.seed)
    there = sampler.seconds_there()
    expected = expected_shares(there, alpha, beta)
    batches = sum(sampler.num_batches(number) for number in range(10))
    drawn = sampler.seconds_drawn(batches)
    assert sum(drawn.values()) == pytest.approx(10 * sum(there.values()), rel=0.02)
    for language in chosen.languages:
        share = sum(value for key, value in drawn.items() if key[0] == language) / sum(drawn.values())
        law = sum(value for key, value in expected.items() if key[0] == language)
        assert share == pytest.approx(law, rel=0.03), language
    for key, value in drawn.items():
        assert value / sum(drawn.values()) == pytest.approx(expected[key], rel=0.1, abs=1e-3), key


def test_drawn_seconds_are_those_of_the_batches(corpus: Corpus) -> None:
    (config,) = balanced([starter()[0]], TwoLevelUpsampling())
    chosen, _ = usable(corpus.where(language=["dan_Latn", "cat_Latn"]), config.data)
    sampler = build_sampler(chosen, config.data, config.seed)
    first = sampler.num_batches(0)
    counted: dict[str, float] = {}
    for number in range(first + 3):  # into the second epoch
        epoch, position = divmod(number, first)
        for language, value in sampler.seconds_by_language(sampler.batch(epoch, position)).items():
            counted[language] = counted.get(language, 0.0) + value
    drawn = sampler.seconds_drawn(first + 3)
    for language, value in counted.items():
        assert sum(n for key, n in drawn.items() if key[0] == language) == pytest.approx(value)
    assert sampler.seconds_drawn(0) == dict.fromkeys(drawn, 0.0)


def test_the_table_shows_what_is_there_and_what_is_drawn(corpus: Corpus) -> None:
    configs = balanced([starter()[0]], TwoStage(subset=BalancedSubset(hours=0.01)))
    small = corpus.where(language=["dan_Latn", "cat_Latn"])
    found = hours_drawn(configs[1], small)
    assert {(one.language, one.source) for one in found} == {
        (language, source) for language in ("cat_Latn", "dan_Latn") for source in ("ktuberling", "tuxpaint")
    }
    per_language = {name: sum(one.chosen for one in found if one.language == name) for name in small.languages}
    assert all(0.0083 < hours <= 0.01 + 1e-9 for hours in per_language.values())  # less than one crop of 6 s is missing
    assert sum(one.there for one in found) > 0.05
    text = drawn_table(configs[1], small)
    assert "iteration-1-balanced draws" in text and "from a subset, seed 0" in text
    assert "ktuberling" in text and "2 languages" in text.splitlines()[-2]
    assert "from everything; alpha 1 between languages, beta 1" in drawn_table(configs[0], small)


def test_the_table_shows_what_is_too_short(corpus: Corpus) -> None:
    small = corpus.where(language=["dan_Latn", "cat_Latn"])
    first = hubert_base()[0]
    config = replace(first, train=replace(first.train, steps=2, warmup_steps=0, microbatches=1))
    rows = [row for row in small if row.language != "cat_Latn" or row.duration_seconds < 2.0]
    some = small.with_utterances(tuple(rows))
    short = [row for row in some if row.split == "train" and row.duration_seconds < 2.0]
    found = hours_drawn(config, some)
    for language in ("cat_Latn", "dan_Latn"):  # nothing of the first can be heard
        expected = sum(row.language == language for row in short)
        assert sum(one.left_out for one in found if one.language == language) == expected > 0
    assert sum(one.there for one in found if one.language == "cat_Latn") == 0.0
    text = drawn_table(config, some)
    assert "left out: recordings shorter than 2 s" in text.splitlines()[-1]
    assert f" {len(short)} " in text.splitlines()[-2]
    note = left_out_note(some, config.data) or ""
    total = sum(row.split == "train" for row in some)
    assert f"shorter than 2 s: {len(short)} of {total} recordings to train on (cat_Latn " in note
    assert left_out_note(some, replace(config.data, min_seconds=0.1)) is None
    assert "left out:" not in drawn_table(replace(config, data=replace(config.data, min_seconds=0.1)), some)


def test_long_plans_are_reckoned_from_the_first_epochs(corpus: Corpus) -> None:
    (config,) = balanced([starter()[0]], TwoLevelUpsampling())
    chosen, _ = usable(corpus.where(language=["dan_Latn", "cat_Latn"]), config.data)
    sampler = build_sampler(chosen, config.data, config.seed)
    counted = sum(sampler.num_batches(number) for number in range(EPOCHS_COUNTED))
    exact, longer = sampler.seconds_drawn(counted), sampler.seconds_drawn(1000 * counted)
    assert longer == {key: pytest.approx(1000 * value) for key, value in exact.items()}


def test_hubert_base_is_as_published() -> None:
    first, second = hubert_base()
    for config, steps, warmup in ((first, 250_000, 20_000), (second, 400_000, 32_000)):
        assert (config.train.steps, config.train.warmup_steps) == (steps, warmup)  # 8 % each
        assert config.train.microbatches * config.data.batch_seconds == 32 * 87.5
        encoder = config.encoder
        assert isinstance(encoder, HubertConfig) and encoder.feature_grad_mult == 0.1
        assert (encoder.hidden_dropout, encoder.attention_dropout, encoder.activation_dropout) == (0.1, 0.1, 0.0)
        assert encoder.feat_proj_dropout == 0.1
    (smaller, _) = recipe_configs("hubert-base", 0, microbatches=4)
    assert smaller.train.microbatches == 4


def test_a_learning_rate_is_the_peak_of_iterations_and_a_stage_takes_its_share() -> None:
    stage = TwoStage(subset=BalancedSubset())
    rates = [one.train.learning_rate for one in recipe_configs("starter", 0, balance=stage, learning_rate=3e-4)]
    assert rates == [3e-4, 3e-4, pytest.approx(6e-5)]
    with pytest.raises(ConfigError, match="learning_rate must be positive"):
        recipe_configs("starter", 0, learning_rate=0.0)


@pytest.mark.parametrize(("recipe", "expected"), [(starter, "b05d2aa8800f0712"), (hubert_base, "a5519465ac735915")])
def test_runs_without_a_balance_hear_what_they_heard_before(corpus: Corpus, recipe, expected: str) -> None:
    """Draws of epochs 0 and 3 as they were before there were subsets and stages."""
    for config in recipe():
        rows, digest = usable(corpus, config.data)[0], hashlib.sha256()
        sampler = build_sampler(rows, config.data, config.seed)
        for epoch in (0, 3):
            for position in range(sampler.num_batches(epoch)):
                for draw in sampler.batch(epoch, position):
                    digest.update(f"{rows.utterances[draw.row].id} {draw.repeat}\n".encode())
        assert digest.hexdigest()[:16] == expected


def test_checkpoints_from_before_still_belong_to_their_run() -> None:
    now = to_dict(starter()[1])
    before = {name: value for name, value in now.items() if name != "continues"}
    before["data"] = {name: value for name, value in now["data"].items() if name != "subset"}
    assert not differences(before, now)
    assert differences(before, to_dict(balanced(starter(), TwoStage(subset=BalancedSubset()))[-1]))


def test_two_stages_are_the_last_iteration_and_one_more_run() -> None:
    stage = TwoStage(subset=BalancedSubset(hours=2.0, seed=4))
    configs = balanced(hubert_base(), stage)
    assert [one.name for one in configs] == ["iteration-1", "iteration-2", "iteration-2-balanced"]
    assert {(one.data.alpha, one.data.beta) for one in configs} == {(1.0, 1.0)}
    last = configs[-1]
    assert last.continues == "iteration-2" and last.data.subset == stage.subset
    assert last.targets == configs[1].targets and last.encoder == configs[1].encoder
    assert (last.train.steps, last.train.learning_rate, last.train.warmup_steps) == (40_000, pytest.approx(1e-4), 4_000)
    with pytest.raises(ConfigError, match="warm_start takes weights only"):
        replace(last, warm_start=True)


def test_further_iterations_repeat_the_last_at_three_quarters_of_the_depth() -> None:
    configs = iterated(hubert_base(), 4)
    assert [one.name for one in configs] == [f"iteration-{n}" for n in (1, 2, 3, 4)]
    assert [one.targets.layer for one in configs] == [None, 6, 9, 9]
    assert configs[2].targets.num_units == 500 and configs[3].train == configs[1].train
    assert iterated(hubert_base(), 1) == hubert_base()[:1]
    with pytest.raises(ConfigError, match="at least one iteration; got 0"):
        iterated(hubert_base(), 0)


def test_steps_name_one_number_a_run() -> None:
    configs: tuple[RunConfig, ...] = with_steps(starter(), (10, 40))
    assert [(one.train.steps, one.train.warmup_steps) for one in configs] == [(10, 1), (40, 4)]
    with pytest.raises(ConfigError, match=r"2 runs \(iteration-1, iteration-2\), but --steps names 1 numbers"):
        with_steps(starter(), (10,))


def test_names_of_balances() -> None:
    assert named_balance("temperature") == TemperatureSampling(alpha=0.5)
    assert named_balance("upsampling", beta=0.8) == TwoLevelUpsampling(alpha=0.7, beta=0.8)
    assert named_balance("two-stage", subset_hours=3, seed=2) == TwoStage(subset=BalancedSubset(hours=3, seed=2))
    with pytest.raises(ConfigError, match=r"Unknown language balance 'temprature'. Did you mean 'temperature'\?"):
        named_balance("temprature")
    with pytest.raises(ConfigError, match=r"beta = 0\.5 has no meaning for the language balance 'temperature'"):
        named_balance("temperature", beta=0.5)
    with pytest.raises(ConfigError, match=r"subset_hours = 1 has no meaning for .* 'none'; it belongs to two-stage"):
        named_balance("none", subset_hours=1.0)
    with pytest.raises(ConfigError, match=r"alpha: a balancing exponent lies between 0 .* got 1.5"):
        named_balance("upsampling", alpha=1.5)
