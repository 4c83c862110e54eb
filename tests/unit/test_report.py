"""The page is complete, true to the numbers, offline, and readable without color."""

from __future__ import annotations

import base64
import io
import json
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from allophone.errors import DataError
from allophone.evaluate import report
from allophone.evaluate.measurements import MEASURES, SYSTEMS, Measurement, changes, scores
from allophone.evaluate.report import (
    Clip,
    Curve,
    ReportContent,
    Table,
    markdown_tables,
    terminal_summary,
    write_report,
)
from allophone.evaluate.report_media import MAX_CLIP_SECONDS, curves_plot, forest_plot, opus_address
from allophone.evaluate.report_summary import PHRASES, summarize

LANGUAGES = ("bul_Cyrl", "spa_Latn", "eng_Latn", "fra_Latn")
ITEMS = 30
STEPS = {"bul_Cyrl": -1.0, "fra_Latn": 1.0}
"""Characters that ``after`` gets wrong more than ``before``; the other languages differ by noise without a mean."""


class Page(HTMLParser):
    """Tags with their attributes, visible text, and the ledger."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "path", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif not self._open or self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words).replace("\u00a0", " "))


def cells(measure: str, language: str, system: Any, level: float, seeds: int, items: int = ITEMS) -> list[Measurement]:
    """``level`` of 10 wrong, the same hard items in every system, another noise for every seed."""
    hardness = np.random.default_rng(1).normal(size=items)
    found = []
    for seed in range(seeds):
        noise = np.random.default_rng([seed, SYSTEMS.index(system)]).normal(size=items) * 0.3
        values = np.maximum(level + hardness + noise - noise.mean(), 0)
        found.append(
            Measurement(
                measure=measure,
                language=language,
                system=system,
                seed=seed,
                items=tuple(f"{language} {number}" for number in range(items)),
                numerators=values,
                denominators=np.full(items, 10.0),
            )
        )
    return found


def character_errors() -> tuple[Measurement, ...]:
    """Three seeds, four languages; the control was not run, chance is missing for English."""
    found = []
    for language in LANGUAGES:
        levels: dict[Any, float] = {"chance": 9.0, "filter bank": 8.0, "random encoder": 7.0, "before": 6.0}
        levels["after"] = 6.0 + STEPS.get(language, 0.0)
        for system, level in levels.items():
            if (language, system) != ("eng_Latn", "chance"):
                found += cells("character_error_all", language, system, level, 1 if system == "chance" else 3)
    return tuple(found)


@pytest.fixture(scope="module")
def content() -> ReportContent:
    return ReportContent(
        title="Bulgarian <joins> & stays",
        new_language="bul_Cyrl",
        new_language_name="Bulgarian",
        kept_languages=LANGUAGES[1:],
        base_model="starter",
        facts=(("Audio added", "0.24 h, 1 voice"), ("Corpus hash", "ab12cd34")),
        measurements=character_errors(),
        extra_tables=(
            Table(title="Purity", explanation="Agreement.", columns=("Units", "PNMI"), rows=(("MFCC", "0.41"),)),
        ),
        curves=(Curve(name="LoRA", steps=[0, 1, 2], values=[3.0, float("nan"), 2.0]),),
        warnings=("One voice a language.",),
        commands=("allophone expand --language bul",),
        pack_path="runs/demo/pack",
    )


@pytest.fixture(scope="module")
def page(content: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_report(content, tmp_path_factory.mktemp("report") / "new folder" / "report.html")
    return path.read_text(encoding="utf-8")


def poor(**given: Any) -> ReportContent:
    """One language, one seed, nothing kept, nothing to hear."""
    bare = ReportContent(
        title="Italian",
        new_language="ita_Latn",
        new_language_name="Italian",
        kept_languages=(),
        base_model="starter",
        facts=(),
        measurements=(),
        pack_path=None,
    )
    return replace(bare, **given)


def words_of(content: ReportContent) -> dict[str, str]:
    found = summarize(content, scores(content.measurements), changes(content.measurements))
    return dict(found.paragraphs)


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    read = Page(page)
    for tag, attributes in read.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "poster", "action"):
            assert re.match(r"data:|#", attributes.get(name) or "#"), f"{tag} {name}={attributes[name]}"
        assert tag != "script" or attributes == {"type": "application/json", "id": "ledger"}
    assert "url(" not in page and "@import" not in page
    policy = next(a["content"] for tag, a in read.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")


def test_links_and_labels_point_at_something(page: str) -> None:
    tags = Page(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    pointers = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert {str(href)[1:] for href in pointers} <= set(ids)
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")


def test_what_is_given_is_escaped(page: str, content: ReportContent) -> None:
    assert content.title in Page(page).text
    assert "<joins>" not in page


def test_every_part_is_there(page: str) -> None:
    text = Page(page).text
    for part in (
        "What improved",
        "What was kept",
        "What broke",
        "0.24 h, 1 voice",
        "Purity",
        "One voice a language.",
        "allophone expand --language bul",
        "runs/demo/pack",
        "Words used here",
        "ab12cd34",
        MEASURES["character_error_all"].explanation,
    ):
        assert part in text
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_verdicts_have_words_and_shapes_beside_colors(page: str) -> None:
    text = Page(page).text
    assert re.search(r"▲ \+\d+\.\d % ?\(.*?\) ?better", text)
    assert re.search(r"▼ −\d+\.\d % ?\(.*?\) ?worse", text)
    assert re.search(r"○ [+−]\d\.\d % ?\(.*?\) ?no clear change", text)


def test_rows_are_in_order_and_missing_cells_say_why(page: str) -> None:
    body = page.split('id="character_error_all"')[1].split("</table>")[0]
    assert re.findall(r'<th scope="row">([a-z ]+)<span', body) == [*SYSTEMS, "change"]
    assert body.count("–<sup>a</sup>") == 1, "chance of English"
    assert body.count("–<sup>b</sup>") == 4, "the control of every language"
    text = Page(page).text
    assert "a Guessing has no single value on this test." in text
    assert "b The control trains only the output table" in text
    assert re.findall(r'class="value">([A-Z][a-z]+)', body) == ["Bulgarian", "Spanish", "English", "French"]


def test_the_ledger_holds_the_same_numbers(page: str, content: ReportContent) -> None:
    (text,) = Page(page).scripts
    ledger = json.loads(text)
    assert ledger["title"] == content.title
    for kept, made in (
        (ledger["scores"], scores(content.measurements)),
        (ledger["changes"], changes(content.measurements)),
    ):
        assert len(kept) == len(made)
        for one, other in zip(kept, made, strict=True):
            assert (one["measure"], one["language"]) == (other.measure, other.language)
    assert ledger["scores"][0]["interval"]["value"] == scores(content.measurements)[0].interval.value
    assert {one["language"]: one["verdict"] for one in ledger["changes"]} == {
        "bul_Cyrl": "better",
        "spa_Latn": "no clear change",
        "eng_Latn": "no clear change",
        "fra_Latn": "worse",
    }


def test_the_ledger_cannot_end_its_script() -> None:
    text = report.ledger_json(poor(title="</script><b>"), [], [])
    assert "<" not in text and json.loads(text)["title"] == "</script><b>"


def test_the_hash_is_of_the_numbers_whatever_their_order(content: ReportContent) -> None:
    known = report.measurements_hash(content.measurements)
    assert known == report.measurements_hash(content.measurements[::-1])
    first = content.measurements[0]
    changed = replace(first, numerators=first.numerators + 1e-12)
    assert known != report.measurements_hash((changed, *content.measurements[1:]))


def test_the_same_content_gives_the_same_page(page: str, content: ReportContent, tmp_path: Path) -> None:
    assert write_report(content, tmp_path / "again.html").read_text(encoding="utf-8") == page
    assert [file.name for file in tmp_path.iterdir()] == ["again.html"]


def test_the_summary_tells_gains_losses_and_doubt(content: ReportContent) -> None:
    words = words_of(content)
    (gain,) = [one for one in changes(content.measurements) if one.language == "bul_Cyrl"]
    before, after = (
        one.interval.value
        for one in scores(content.measurements)
        if one.language == "bul_Cyrl" and one.system in ("before", "after")
    )
    relative = gain.relative
    assert (
        f"improved by {relative.value:.1f} % (between {relative.low:.1f} % and {relative.high:.1f} %)"
        in words["Gained"]
    )
    assert f"from {before:.1f} % to {after:.1f} %" in words["Gained"]
    assert "Spanish and English: no clear change in the one test; French: clearly worse at 1 of 1 test" in words["Kept"]
    assert re.match(
        r"French, writing down speech \(all labels\), got worse by 16\.\d % \(between 1\d\.\d % and", words["Broke"]
    )
    assert "3 random starts" in words["How sure"] and "1 warning" in words["How sure"]


def test_every_measure_has_plain_words() -> None:
    assert set(PHRASES) == set(MEASURES)


def test_a_poor_run_is_told_as_such(tmp_path: Path) -> None:
    measured = [
        *cells("masked_loss_own_units", "ita_Latn", "head only", 6.0, 1, items=4),
        *cells("masked_loss_own_units", "ita_Latn", "after", 2.0, 1, items=4),
    ]
    content = poor(measurements=tuple(measured))
    text = Page(write_report(content, tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "not clearly better in the one test in Italian" in text
    assert "No other language was tested, so this page cannot say what was kept." in text
    assert "luck in training is not covered" in text
    assert "too few items to say" in text
    assert "“head only” stands in for it" in text
    assert "Listen" not in text


def test_a_run_without_measurements_has_a_page(tmp_path: Path) -> None:
    content = poor(kept_languages=("spa_Latn",))
    text = Page(write_report(content, tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "this page cannot say what was gained" in text
    assert "Spanish should be kept but had no test" in text
    assert markdown_tables(()) == ""


def test_a_baseline_of_zero_is_told_in_its_unit(tmp_path: Path) -> None:
    zero, five = (
        [replace(one, numerators=np.full(ITEMS, value)) for one in cells("retrieval_dtw", "ita_Latn", system, 5.0, 1)]
        for system, value in (("before", 0.0), ("after", 5.0))
    )
    content = poor(measurements=(*zero, *five))
    text = Page(write_report(content, tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "improved: from 0 to 50.0" in text and "▲ from 0 to 50.0" in text
    assert "nan" not in text.lower()
    assert "+nan" not in terminal_summary(content)


def test_players_hold_the_recording(speech: Callable[..., Tensor], tmp_path: Path) -> None:
    long = torch.cat([speech(13.0), torch.zeros(16000)])
    clips = (
        Clip(audio=speech(1.5), caption="short", text="<b>", units_before="7 7 7 12", units_after=("3", "4")),
        Clip(audio=2 * long.numpy(), caption="long and loud"),
    )
    text = write_report(poor(clips=clips), tmp_path / "report.html").read_text(encoding="utf-8")
    read = Page(text)
    addresses = [str(attributes["src"]) for tag, attributes in read.tags if tag == "audio"]
    decoded = [soundfile.read(io.BytesIO(base64.b64decode(one.split(",")[1]))) for one in addresses]
    assert [rate for _, rate in decoded] == [16000, 16000]
    assert len(decoded[0][0]) == pytest.approx(1.5 * 16000, abs=400)
    assert len(decoded[1][0]) == pytest.approx(MAX_CLIP_SECONDS * 16000, abs=400)
    heard, given = np.abs(decoded[0][0][:24000]), speech(1.5).abs().numpy()[: len(decoded[0][0])]
    assert np.corrcoef(heard[: len(given)], given)[0, 1] > 0.8
    assert "14.0 s; the first 12 s are kept here" in read.text
    assert "7×3 12" in read.text and "3 4" in read.text and "“<b>”" in read.text


def test_a_page_stays_small(speech: Callable[..., Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_PAGE_BYTES", 100_000)
    clips = tuple(Clip(audio=speech(4.0, seed=number), caption=f"clip {number}") for number in range(6))
    path = write_report(poor(clips=clips), tmp_path / "report.html")
    read = Page(path.read_text(encoding="utf-8"))
    shown = sum(tag == "audio" for tag, _ in read.tags)
    assert path.stat().st_size < 100_000 and 0 < shown < 6
    assert f"{6 - shown} of 6 recordings have no player" in read.text


def test_figures_are_whole_and_closed(content: ReportContent) -> None:
    drawn = forest_plot(changes(content.measurements), [*"abcd"])
    for address in (drawn, curves_plot(content.curves)):
        kind, code = address.split(",")
        assert kind == "data:image/svg+xml;base64"
        tree = ElementTree.fromstring(base64.b64decode(code))
        references = [value for node in tree.iter() for name, value in node.attrib.items() if name.endswith("href")]
        assert references and all(value.startswith("#") for value in references)
    assert forest_plot([], []) == ""
    assert curves_plot([Curve(name="x", steps=[1], values=[float("inf")])]) == ""


def test_long_curves_are_thinned() -> None:
    steps = list(range(50_000))
    assert len(curves_plot([Curve(name="x", steps=steps, values=np.sin(steps).tolist())])) < 150_000


def test_markdown_tables_are_regular(content: ReportContent) -> None:
    text = markdown_tables(content.measurements, order=("spa_Latn",))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert rows[0].startswith("| system | Spanish (n = 30) | Bulgarian")
    assert [line.split("|")[1].strip(" *") for line in rows[2:]] == [*SYSTEMS, "change from before"]
    (after,) = [one for one in scores(content.measurements) if (one.language, one.system) == ("bul_Cyrl", "after")]
    assert f"**{after.interval.value:.1f} ({after.interval.low:.1f}–{after.interval.high:.1f})**" in text


def test_the_terminal_summary_is_short_and_tells_what_broke(content: ReportContent) -> None:
    everything: list[Measurement] = []
    for measure in MEASURES:
        better = MEASURES[measure].higher_is_better
        for language in LANGUAGES:
            gain = 1.0 if (language == "bul_Cyrl") == better else -1.0
            everything += cells(measure, language, MEASURES[measure].baseline, 6.0, 2)
            everything += cells(measure, language, "after", 6.0 + gain, 2)
    lines = terminal_summary(replace(content, measurements=tuple(everything))).splitlines()
    assert len(lines) <= 10
    assert sum(line.startswith("  better") for line in lines) == 4
    assert f"and {len(MEASURES) - 3} more" in "\n".join(lines)
    assert sum("worse" in line for line in lines) == 2
    assert f"; and {3 * len(MEASURES) - 2} more" in "\n".join(lines)
    assert lines[-1].endswith("runs/demo/pack")
    assert "nothing is clearly worse" in terminal_summary(poor())


def test_bad_content_is_refused(tmp_path: Path) -> None:
    for audio in (torch.zeros(2, 8000), torch.zeros(0), torch.tensor([0.0, float("nan")])):
        clip = Clip(audio=audio, caption="the one")
        with pytest.raises(DataError, match=r"Clip 'the one': audio of shape .* cannot be played; expected"):
            write_report(poor(clips=(clip,)), tmp_path / "report.html")
    with pytest.raises(DataError, match="Curve 'LoRA': 2 steps, 1 values"):
        Curve(name="LoRA", steps=[1, 2], values=[1.0])
    with pytest.raises(DataError, match=r"Table 'Purity': a row has 1 cells \(MFCC\), the table 2 columns"):
        Table(title="Purity", explanation="", columns=("a", "b"), rows=(("MFCC",),))
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_opus_is_much_smaller_than_samples(speech: Callable[..., Tensor]) -> None:
    assert len(opus_address(speech(10.0).numpy())) < 160_000


def test_templates_travel_with_the_package(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["allophone"]
    folder = root / "src" / "allophone"
    packed = {file for pattern in patterns for file in folder.glob(pattern)}
    assert set((folder / "evaluate" / "templates").iterdir()) <= packed
