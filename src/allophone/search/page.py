"""The page that shows what a search found: one file, players inside, nothing loaded from elsewhere.

Served, it also asks (:mod:`allophone.recipes.search_server`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from allophone.search.index import Hit, IndexInfo
from allophone.text.languages import parse_language


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A hit and how it sounds."""

    hit: Hit
    sound: str
    """``data:`` address; empty where the recording is gone."""

    @property
    def time(self) -> str:
        """Where in the file it lies, such as ``0:02.0 to 0:04.3``."""
        begin = self.hit.entry.offset_seconds
        return f"{clock(begin)} to {clock(begin + self.hit.entry.duration_seconds)}"

    @property
    def language(self) -> str:
        """Name of the language."""
        return parse_language(self.hit.entry.language).name


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchForm:
    """What the form of a served page says."""

    language: str = ""
    """Only answers in this language; empty = in any."""
    problem: str = ""
    """Why the question was not answered."""


def clock(seconds: float) -> str:
    """Minutes and seconds.

    Example:
        >>> clock(125.26)
        '2:05.3'
    """
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def search_page(
    query: str, shown: Sequence[Shown], info: IndexInfo, *, spoken_query: str = "", form: SearchForm | None = None
) -> str:
    """HTML of a search.

    Args:
        query: What was asked: a text, or the name of a file.
        shown: Answers, best first.
        info: Of the index.
        spoken_query: ``data:`` address of the clip that was asked with; empty for a text.
        form: For a page that is served: a form to ask with. None = the page is a file, and only shows.
    """
    environment = Environment(
        loader=PackageLoader("allophone.search", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("search.html")
    return template.render(query=query, shown=shown, info=info, spoken_query=spoken_query, form=form)
