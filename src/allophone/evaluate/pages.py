"""How every page of scores is made from its template."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_templates() -> Environment:
    """The templates of this package; every value is escaped, and one that is missing is an error."""
    return Environment(
        loader=PackageLoader("allophone.evaluate", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
