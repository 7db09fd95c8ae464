"""Periods: the days or months by which raw and feature tables are cut into files."""

from datetime import UTC, datetime, timedelta

from millwright.fleet import Fleet

FORMATS = {"day": "%Y-%m-%d", "month": "%Y-%m"}


def label(moment: datetime, fleet: Fleet) -> str:
    """The period in which `moment` lies; labels sort as the periods do."""
    return moment.astimezone(UTC).strftime(FORMATS[fleet.partition])


def limits(period: str, fleet: Fleet) -> tuple[datetime, datetime]:
    """The beginning of `period`, which belongs to it, and its end, which does not (UTC)."""
    start = datetime.strptime(period, FORMATS[fleet.partition]).replace(tzinfo=UTC)
    if fleet.partition == "day":
        return start, start + timedelta(days=1)
    return start, (start + timedelta(days=32)).replace(day=1)


def between(first: datetime, last: datetime, fleet: Fleet) -> list[str]:
    """The periods from the one of `first` to the one of `last`, both included."""
    found = [label(first, fleet)]
    while found[-1] < label(last, fleet):
        found.append(label(limits(found[-1], fleet)[1], fleet))
    return found
