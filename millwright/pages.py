"""How pages for people are written: their templates, and numbers in words."""

from datetime import timedelta
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from millwright.fleet import Fleet

TEMPLATES = Path(__file__).parent / "templates"


def environment(fleet: Fleet) -> Environment:
    """The templates, with filters that write as people of the fleet do; HTML is escaped."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(
        figure=figure,
        count=lambda value: f"{value:,}",
        money=lambda amount: money(amount, fleet.costs.currency),
        length=lambda duration: length(duration, fleet),
        warning=lambda hours: warning(hours, fleet),
        moment=lambda moment: f"{moment:%Y-%m-%d %H:%M}",
        cell=cell,
        counted=counted,
        size=len,
    )
    return made


def length(duration: timedelta, fleet: Fleet) -> str:
    """`duration` in words: `4 hours`, `2 days`, `30 cycles`."""
    hours = duration / timedelta(hours=1)
    if fleet.counts_cycles:
        return counted(hours, "cycle")
    return counted(hours / 24, "day") if hours >= 48 else counted(hours, "hour")


def warning(hours: float, fleet: Fleet) -> str:
    """A time that was measured, in words: `22.5 hours`, `2.1 days`, `26.5 cycles`."""
    if fleet.counts_cycles or hours < 48:
        return length(timedelta(hours=round(hours, 1)), fleet)
    return counted(round(hours / 24, 1), "day")


def money(amount: float, currency: str) -> str:
    """`amount` without cents: `EUR 21,500`."""
    return f"{currency} {amount:,.0f}"


def figure(value: float | None, digits: int = 3) -> str:
    """`value` to so many decimals, or a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def cell(value: object) -> str:
    """`value` as the text of a cell of a Markdown table."""
    return str(value).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def counted(number: float, noun: str) -> str:
    """`number` of what `noun` names: `1 alarm`, `1,200 alarms`."""
    return f"{number:,.3g} {noun}" if number == 1 else f"{number:,.10g} {noun}s"
