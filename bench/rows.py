"""A row of the table: what was measured, the aim, and the floor of the same run."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.service import FloorServer
from sandbox.people import Person
from sandbox.stack.deployment import Deployment

HEADS = ("", "measured", "aim", "floor of the same run: times the floor")


@dataclass(frozen=True)
class Bench:
    """What a measurement works with. seconds: how long each load lasts."""

    stack: Deployment
    floor: FloorServer
    people: Sequence[Person]
    seconds: float


@dataclass(frozen=True)
class Floor:
    """The least that something can cost. form: words with the value in braces. ratio: our value divided by it."""

    form: str
    value: float
    ratio: float

    def __str__(self) -> str:
        return f"{self.form.format(self.value)}: {self.ratio:.2f}"


@dataclass(frozen=True)
class Row:
    """A row of the table. form: words with each value in braces."""

    name: str
    form: str
    values: tuple[float, ...]
    aim: str = ""
    floors: tuple[Floor, ...] = ()

    @property
    def measured(self) -> str:
        return self.form.format(*self.values)

    def line(self, *more: str) -> str:
        cells = (self.name, self.measured, self.aim, "; ".join(map(str, self.floors)), *more)
        return f"| {' | '.join(cells)} |"


def milliseconds(seconds: float) -> float:
    return seconds * 1000


def median_of(rows: Sequence[Row]) -> Row:
    """Return one row for several runs of the same measurement, with the median of each number."""
    values = tuple(map(statistics.median, zip(*(row.values for row in rows), strict=True)))
    floors = tuple(
        replace(
            each[0],
            value=statistics.median(floor.value for floor in each),
            ratio=statistics.median(floor.ratio for floor in each),
        )
        for each in zip(*(row.floors for row in rows), strict=True)
    )
    return replace(rows[0], values=values, floors=floors)
