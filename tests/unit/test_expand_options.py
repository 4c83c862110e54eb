"""Options of an expansion: replay by hours, K of MFCC, units that need old ones, and the line that a user types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_model import encoder

from allophone.cli.main import build_parser, main
from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError
from allophone.recipes.expand import replayed_hours
from allophone.recipes.own_units import require_old_units
from allophone.run.base import Base
from allophone.run.expansion_config import ExpandConfig, run_config


def corpus(hours: float) -> Corpus:
    row = Utterance(id="a", path="a.wav", duration_seconds=3600 * hours, sample_rate=16_000, language="swa_Latn")
    return Corpus(folder=Path("/"), utterances=(replace(row, split="train"), replace(row, id="b", split="test")))


def test_replay_is_a_ratio_of_hours_to_the_training_audio_of_the_new_language() -> None:
    assert replayed_hours(ExpandConfig(kept_hours=0.3), corpus(2.0), 3) == 0.3
    assert replayed_hours(ExpandConfig(replay=1.0), corpus(2.0), 4) == pytest.approx(0.5)
    assert replayed_hours(ExpandConfig(replay=0.25), corpus(2.0), 1) == pytest.approx(0.5)


def test_mfcc_has_100_units_unless_a_number_is_given() -> None:
    base = Base(encoder=encoder(), codebook=None, heads=None)
    found = [
        run_config(base, ExpandConfig(num_units=number), name="x", targets="mfcc39").targets.num_units
        for number in (None, 1000, 3000)
    ]
    assert found == [100, 1000, 3000]


def test_ids_can_only_be_kept_where_there_are_some() -> None:
    base = Base(encoder=encoder(), codebook=None, heads=None)
    require_old_units(base, ExpandConfig())
    for units in ("anchored", "frozen"):
        with pytest.raises(ConfigError, match=f"units '{units}' keep the ids .* none of its own lies beside the base"):
            require_old_units(base, ExpandConfig(units=units))


@pytest.mark.parametrize("wrong", [{"replay": -1.0}, {"move": 1.5}, {"new_units": -1}])
def test_numbers_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="must not be negative and move lie between 0 and 1"):
        ExpandConfig(**wrong)


def test_the_line_for_several_languages_and_a_gate(capsys: pytest.CaptureFixture[str]) -> None:
    line = "expand --corpus x --language bul,ell --keep spa --most-loss 2 --units anchored --move 0.5".split()
    found = build_parser().parse_args(line)
    assert (found.language, found.most_loss, found.loss_rule) == (("bul", "ell"), 2.0, "clear")
    assert (found.units, found.move) == ("anchored", 0.5)
    assert main("expand --corpus starter --language , --out /nowhere".split()) == 1
    assert "names no language" in capsys.readouterr().err
