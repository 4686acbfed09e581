"""HTML from the jinja templates in `templates/`.

The templates escape texts of rows and completions.
"""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

LONGEST = 20_000  # most characters of a completion outside the viewer
_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def fill_template(template: str, **values: Any) -> Markup:
    """Fill a template. Markup, charts and tables are inserted unchanged; everything else is escaped."""
    return Markup(_templates.get_template(template).render(values))


def render_mixed(key: str, title: str, **parts: Any) -> str:
    """Render a section of `sentences`, `notes`, `charts`, `tables`, and `details` that open on a click."""
    values: dict[str, Any] = {"sentences": (), "notes": (), "charts": (), "tables": (), "details": (), **parts}
    return fill_template("mixed.html", key=key, title=title, **values)


def percent(value: float) -> str:
    """A fraction in percent with one digit, without the sign."""
    return f"{100 * value:.1f}"


def span(interval: Any) -> str:
    """An interval of fractions in percent."""
    return f"{percent(interval['low'])} to {percent(interval['high'])}"
