"""ML-SUPERB's scores from answers: what is averaged over what, and what the intervals draw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from allophone.errors import ConfigError, DataError
from allophone.evaluate.mlsuperb import superb_scores
from allophone.evaluate.mlsuperb_answers import Answer, rates_by_script, thin_languages
from allophone.evaluate.mlsuperb_challenge import COLUMN_DEFECT, challenge_scores, worst_languages
from allophone.evaluate.mlsuperb_reference import COLUMNS, reference_set
from allophone.evaluate.mlsuperb_tables import challenge_markdown, superb_markdown, superb_rows_markdown
from allophone.text.published import ml_superb_1, ml_superb_2, normalize_as

REFERENCE = reference_set("10min")


def answer(name: str, language: str, said: str, read: str, guess: str | None = None, dataset: str = "") -> Answer:
    return Answer(id=name, language=language, reference=said, hypothesis=read, guess=guess, dataset=dataset)


MULTILINGUAL = [
    answer("a", "deu", "abcd", "abcx", "deu"),  # 1 of 4
    answer("b", "deu", "abcdef", "abcdef", "fra"),  # 0 of 6
    answer("c", "fra", "ab cd", "abcd", "fra"),  # the space is missing: 1 of 5
    answer("d", "lit", "abc", "", None),  # few-shot: 3 of 3
]
ANSWERS = {
    "monolingual": [
        answer("m1", "deu", "ab", "xx", dataset="mls"),  # 100 %
        answer("m2", "deu", "ab", "ab", dataset="swc"),  # 0 %: German is 50 %
        answer("m3", "fra", "abcd", "abcx", dataset="mls"),  # 25 %
        answer("m4", "cmn", "ni3 hao3", "ni3 hao2", dataset="cv"),  # one phone of two
    ],
    "multilingual": MULTILINGUAL,
    "language_identification": [*MULTILINGUAL, answer("e", "fra", "", "", "deu")],
    "joint": MULTILINGUAL,
}
"""Columns, by hand: 41.67, 2/15, 3/3, 2/4, 2/3, 2/15, 3/3."""
EXPECTED = [125 / 3, 200 / 15, 100, 50, 200 / 3, 200 / 15, 100]


def test_every_column_is_averaged_as_published() -> None:
    found = superb_scores(ANSWERS, REFERENCE, resamples=50)
    assert [one.name for one in found.columns] == list(COLUMNS)
    assert [one.value for one in found.columns] == pytest.approx(EXPECTED)
    assert found.score.value == pytest.approx(float(REFERENCE.score(np.array(EXPECTED))))
    assert found.reference.hash in str(found.reference)


def test_both_intervals_surround_the_same_value() -> None:
    found = superb_scores(ANSWERS, REFERENCE, resamples=200)
    for one in (*found.columns, found.score):
        assert one.languages.value == pytest.approx(one.utterances.value)
        for interval in (one.utterances, one.languages):
            assert interval.low - 1e-9 <= interval.value <= interval.high + 1e-9
    assert found.columns[0].languages.low < found.columns[0].languages.high  # three languages of different rates
    assert found.columns[2].languages.low == found.columns[2].languages.high  # one few-shot language


def many(rates: dict[str, float], count: int = 40, seed: int = 0, length: int = 10) -> list[Answer]:
    """Utterances of ten letters, each wrong with the language's probability."""
    generator = np.random.default_rng(seed)
    found = []
    for language, rate in rates.items():
        for index in range(count):
            wrong = generator.random(length) < rate
            read = "".join("x" if one else "a" for one in wrong)
            guess = language if generator.random() > rate else "und"
            found.append(answer(f"{language}-{index}", language, "a" * length, read, guess))
    return found


def test_utterance_intervals_cover_and_language_intervals_are_wider() -> None:
    rates = {"deu": 0.1, "fra": 0.2, "rus": 0.4, "swh": 0.6, "eng": 0.3}
    inside = 0
    for seed in range(24):
        measured = challenge_scores(many(rates, seed=seed), resamples=200)["CER"]
        inside += measured.utterances.low <= 32 <= measured.utterances.high
        assert measured.languages.high - measured.languages.low > measured.utterances.high - measured.utterances.low
    assert inside >= 20  # 95 % of 24 is 23


def test_the_challenge_averages_utterances_then_languages() -> None:
    answers = [
        answer("a", "deu", "Ab!", "ab", "deu"),  # 0
        answer("b", "deu", "abcd", "xxcd", "deu"),  # 1/2; German 1/4 though 2 of 6 letters are wrong
        answer("c", "cmn", "我 想", "我想", "yue"),  # spaces are dropped: 0
        answer("d", "fra", "ab", "", None),  # 1
        answer("e", "fra", "...", "abc", "fra"),  # nothing said: counts nowhere, nor does its right guess
    ]
    dialects = [answer("f", "eng", "abcd", "abcx", "eng"), answer("g", "spa", "ab", "ab", "por")]
    found = challenge_scores(answers, dialects, resamples=50)
    assert found["CER"].value == pytest.approx(100 * (0.25 + 0 + 1) / 3)
    assert found["LID"].value == pytest.approx(100 / 3)
    assert found["CER deviation"].value == pytest.approx(100 * np.std([0.25, 0, 1], ddof=1))
    assert found["worst CER"].value == pytest.approx(found["CER"].value)  # fewer than 15 languages: of those there are
    assert found["dialect CER"].value == pytest.approx(12.5) and found["dialect LID"].value == pytest.approx(50)
    assert "exchanged" in COLUMN_DEFECT


def test_the_worst_fifteen_are_named() -> None:
    codes = "ara bul cat ces cym deu ell eng est eus fas fin fra glg hau hin hrv hun".split()
    answers = many({code: 0.04 * place for place, code in enumerate(codes)}, count=30)
    found = challenge_scores(answers, resamples=50)
    means = sorted((one.rate.value for one in worst_languages(answers, resamples=20)), reverse=True)
    assert found["worst CER"].value == pytest.approx(np.mean(means[:15]))
    assert len(found.worst) == 15 and found.worst[0].name == "Hungarian" and not found.worst[0].thin
    assert {one.language for one in found.worst}.isdisjoint({"ara"})


def test_thin_languages_are_warned_of_by_name() -> None:
    answers = [*many({"deu": 0.1}, count=20), *many({"fra": 0.1}, count=19)]
    assert thin_languages(answers) == ("Fewer than 20 test utterances, so their scores say little: fra (19).",)
    assert challenge_scores(answers, answers, resamples=20).warnings == (
        "Fewer than 20 test utterances, so their scores say little: fra (19).",
        "Fewer than 20 test utterances of the dialects, so their scores say little: fra (19).",
    )
    assert next(one for one in worst_languages(answers) if one.language == "fra").thin
    assert thin_languages(many({"deu": 0.1})) == ()


def test_refusals_say_what_is_missing() -> None:
    with pytest.raises(DataError, match="no answers of joint, monolingual; SUPERB_s needs all four"):
        superb_scores({k: ANSWERS[k] for k in ("multilingual", "language_identification")}, REFERENCE)
    with pytest.raises(DataError, match="column 'few_shot' has no utterance"):
        superb_scores({**ANSWERS, "multilingual": MULTILINGUAL[:3]}, REFERENCE)
    with pytest.raises(DataError, match="every reference is empty under 'ml-superb-1'"):
        superb_scores({**ANSWERS, "monolingual": [answer("m", "deu", "!", "a")]}, REFERENCE)
    with pytest.raises(DataError, match="expected at least two languages"):
        challenge_scores(MULTILINGUAL[:2])
    with pytest.raises(DataError, match="no utterance with a text in fra"):
        challenge_scores([MULTILINGUAL[0], answer("e", "fra", "?", "a")])


# ---- normalization ----


def test_published_normalizers() -> None:
    assert ml_superb_1("[laugh] Don't, c'est l'été « là »!") == "DONT CEST LÉTÉ « LÀ »"
    assert ml_superb_2("Don't, « là »!", "fra") == "DONT  LÀ"
    assert (ml_superb_2("สวัสดี ครับ", "tha"), ml_superb_2("ab cd", "deu")) == ("สวัสดีครับ", "AB CD")
    assert ml_superb_2("我 想", "zh") == ml_superb_2("我 想", "cmn_Hans") == "我想"
    assert normalize_as("none", " A b! ", "deu") == "A b!"
    with pytest.raises(ConfigError, match="Unknown normalizer 'whisper'"):
        normalize_as("whisper", "a", "deu")  # type: ignore[arg-type]


VOWELS = [("hin", "कि", "की"), ("hin", "मेरा", "मारी"), ("tam", "பூ", "பொ"), ("tha", "กิน", "กัน"), ("ben", "দিন", "দান")]
"""Different words that differ in vowel signs (Mn, Mc) alone."""


@pytest.mark.parametrize(("language", "said", "read"), VOWELS)
def test_vowel_signs_are_errors_here_and_nothing_to_the_usual_normalizer(language: str, said: str, read: str) -> None:
    whisper = pytest.importorskip("transformers.models.whisper.english_normalizer").BasicTextNormalizer()
    assert whisper(said) == whisper(read)
    for normalizer in ("ml-superb-1", "ml-superb-2", "allophone"):
        assert normalize_as(normalizer, said, language) != normalize_as(normalizer, read, language)
    (rates,) = rates_by_script([answer("a", language, said, read)])
    assert all(rate > 0 for rate in rates.rates.values())


def test_rates_by_script_show_what_a_normalizer_forgives() -> None:
    answers = [
        answer("a", "hin", "कि।", "की"),
        answer("b", "deu", "Ja, gut!", "ja gut"),
        answer("c", "fra", "été", "été"),
        answer("d", "qqq", "abc", "abd"),
    ]
    found = {one.script: one for one in rates_by_script(answers)}
    assert found["Latn"].languages == ("deu", "fra") and found["Latn"].utterances == 2
    assert found["Latn"].rates["none"] == pytest.approx(100 * 3 / 11)
    assert found["Latn"].rates["ml-superb-2"] == found["Latn"].rates["allophone"] == 0
    assert found["Deva"].rates["none"] == pytest.approx(200 / 3)
    assert found["Deva"].rates["allophone"] == pytest.approx(50)
    assert np.isnan(found["Zyyy"].rates["allophone"]) and found["Zyyy"].rates["none"] == pytest.approx(100 / 3)


def test_the_normalizer_travels_with_the_score() -> None:
    loud = {k: [replace(one, hypothesis=one.hypothesis + "!") for one in v] for k, v in ANSWERS.items()}
    published = superb_scores(loud, REFERENCE, resamples=20)
    raw = superb_scores(loud, REFERENCE, normalizer="none", resamples=20)
    assert [one.value for one in published.columns] == pytest.approx(EXPECTED)
    assert raw.columns[1].value > published.columns[1].value and raw.normalizer == "none"


# ---- as text ----


def test_a_printed_score_names_its_set_its_hash_and_its_normalizer() -> None:
    text = superb_markdown(superb_scores(ANSWERS, REFERENCE, resamples=30))
    assert REFERENCE.hash in text and "leaderboard-2024 (10min" in text and "ml-superb-1" in text
    assert "| monolingual | 41.7 |" in text and "Warning: Fewer than 20 test utterances" in text
    other = superb_markdown(superb_scores(ANSWERS, reference_set("10min", "paper-2023"), resamples=30))
    assert REFERENCE.hash not in other and "another row" in other


def test_a_printed_challenge_names_the_worst_the_scripts_and_the_defect() -> None:
    answers = [*many({"deu": 0.1, "rus": 0.5, "hin": 0.3}), answer("x", "qqq", "abc", "abd")]
    text = challenge_markdown(challenge_scores(answers, answers, resamples=30), rates_by_script(answers))
    assert COLUMN_DEFECT in text and "The 4 worst languages" in text and "| 1 (few) |" in text
    assert text.index("Russian (rus)") < text.index("German (deu)")
    assert (
        "| script | languages | utterances | raw | ml-superb-2 | allophone |" in text and "| Zyyy | qqq | 1 |" in text
    )
    assert "dialect LID" in text and "Warning: Fewer than 20 test utterances of the dialects" in text


def test_several_seeds_are_one_value_with_a_wider_interval() -> None:
    better = {task: [replace(one, hypothesis=one.reference) for one in found] for task, found in ANSWERS.items()}
    alone = [superb_scores(one, REFERENCE, resamples=200) for one in (ANSWERS, better)]
    both = superb_scores(ANSWERS, REFERENCE, other_seeds=[better], resamples=200)
    for first, second, found in zip(*(one.columns for one in alone), both.columns, strict=True):
        assert found.value == pytest.approx((first.value + second.value) / 2)
        assert found.languages.value == pytest.approx(found.value)
    assert both.columns[2].utterances.low == 0 and both.columns[2].utterances.high == 100  # one utterance, two seeds
    fewer = {**better, "joint": better["joint"][1:]}
    with pytest.raises(DataError, match=r"joint.*: seeds answered different utterances"):
        superb_scores(ANSWERS, REFERENCE, other_seeds=[fewer])


def test_rows_are_above_where_intervals_do_not_meet() -> None:
    perfect = {
        task: [replace(one, hypothesis=one.reference, guess=one.language) for one in found]
        for task, found in ANSWERS.items()
    }
    wrong = {task: [replace(one, hypothesis="", guess=None) for one in found] for task, found in ANSWERS.items()}
    scores = {
        name: superb_scores(one, REFERENCE, resamples=50)
        for name, one in {"good": perfect, "same": perfect, "bad": wrong}.items()
    }
    lines = superb_rows_markdown(scores).splitlines()
    assert lines[0] == "| measure | good | same | bad | good above |" and len(lines) == 2 + len(COLUMNS) + 1
    assert all(line.endswith("| bad |") for line in lines[2:])
    assert "language_identification ↑" in lines[5] and "monolingual ↓" in lines[2]
    worst = superb_rows_markdown({"bad": scores["bad"], "good": scores["good"]}).splitlines()
    assert all(line.endswith("| none |") for line in worst[2:])
