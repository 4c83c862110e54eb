"""The matrix of languages added in sequence: what is compared with what, and a page that says it without a network."""

from __future__ import annotations

import json

import numpy as np
import pytest

from allophone.errors import DataError
from allophone.evaluate.matrix import State, matrices, matrix_figure, matrix_json, write_matrix_page
from allophone.evaluate.measurements import Measurement

ITEMS = tuple(f"u{i}" for i in range(30))


def measured(language: str, level: float, system: str, measure: str = "character_error_all") -> Measurement:
    """30 utterances of 20 characters with so many errors on average."""
    noise = np.random.default_rng(len(language)).normal(0, 0.2, len(ITEMS))
    return Measurement(
        measure=measure,
        language=language,
        system=system,  # type: ignore[arg-type]
        seed=0,
        items=ITEMS,
        numerators=level + noise,
        denominators=np.full(len(ITEMS), 20.0),
    )


def state(name: str, added: str | None, system: str, levels: dict[str, float]) -> State:
    own = tuple(measured(language, level, system) for language, level in levels.items())
    others = (measured("spa_Latn", 19.0, "chance"), measured("spa_Latn", 1.0, "after", "language_identification"))
    return State(name=name, added=added, measurements=(*own, *others))


@pytest.fixture
def states() -> list[State]:
    return [
        state("as it was given", None, "before", {"spa_Latn": 8.0, "bul_Cyrl": 12.0, "ell_Grek": 12.0}),
        state("+ bul_Cyrl", "bul_Cyrl", "after", {"spa_Latn": 8.0, "bul_Cyrl": 9.0, "ell_Grek": 12.0}),
        state("+ ell_Grek", "ell_Grek", "after", {"spa_Latn": 10.0, "bul_Cyrl": 9.0, "ell_Grek": 10.0}),
    ]


def test_every_state_is_compared_with_the_first(states: list[State]) -> None:
    (matrix,) = matrices(states)
    assert matrix.key == "character_error_all" and matrix.languages == ("bul_Cyrl", "ell_Grek", "spa_Latn")
    cells = {(s, tag): cell for s, row in zip(matrix.states, matrix.cells, strict=True)
             for tag, cell in zip(matrix.languages, row, strict=True)}  # fmt: skip
    assert all(cells["as it was given", tag].change is None for tag in matrix.languages)
    assert cells["as it was given", "spa_Latn"].score.interval.value == pytest.approx(40, abs=1)
    better, worse = cells["+ bul_Cyrl", "bul_Cyrl"].change, cells["+ ell_Grek", "spa_Latn"].change
    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert better.relative.value == pytest.approx(25, abs=1) and worse.relative.value == pytest.approx(-25, abs=1)
    assert cells["+ ell_Grek", "bul_Cyrl"].change.relative.value == pytest.approx(25, abs=1)
    relations = [cells[name, "ell_Grek"].relation for name in matrix.states]
    assert relations == ["to come", "to come", "added"]
    assert cells["+ bul_Cyrl", "spa_Latn"].relation == "kept"


def test_the_page_is_offline_and_has_every_number(states: list[State], tmp_path) -> None:
    found = matrices(states)
    page = write_matrix_page("<Two>", found, [("Base", "starter")], tmp_path / "a" / "report.html", pages=["1/r.html"])
    text = page.read_text()
    assert "&lt;Two&gt;" in text and 'href="1/r.html"' in text
    assert "http:" not in text and "https:" not in text
    ledger = json.loads(text.split('id="ledger">')[1].split("</script>")[0])
    assert ledger == json.loads(json.dumps(matrix_json(found))) and len(ledger) == 9
    assert "▲" in text and "▼" in text and "not yet added" in text


def test_a_matrix_figure_needs_an_addition_and_a_matrix_a_beginning(states: list[State]) -> None:
    (matrix,) = matrices(states)
    assert matrix_figure(matrix).startswith("data:image/svg+xml;base64,")
    assert matrix_figure(matrices(states[:1])[0]) == ""
    with pytest.raises(DataError, match="the model as it was given as its first state"):
        matrices(states[1:])
