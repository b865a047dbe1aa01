"""What is easier to show without the server: forms, months."""

from datetime import UTC, datetime

import pytest

from sandbox.stripe.objects import month_later
from sandbox.stripe.wire import parse_form


@pytest.mark.parametrize(
    ("pairs", "tree"),
    [
        ([("a", "1")], {"a": "1"}),
        ([("a[b][c]", "1"), ("a[b][d]", "2")], {"a": {"b": {"c": "1", "d": "2"}}}),
        ([("a[0][b]", "1"), ("a[1][b]", "2")], {"a": [{"b": "1"}, {"b": "2"}]}),
        ([("a[]", "1"), ("a[]", "2")], {"a": ["1", "2"]}),
        ([("metadata[a b]", "x=y")], {"metadata": {"a b": "x=y"}}),
    ],
)
def test_brackets_nest(pairs, tree):
    assert parse_form(pairs) == tree


@pytest.mark.parametrize(
    ("start", "end"), [("2026-01-31", "2026-02-28"), ("2026-12-15", "2027-01-15"), ("2028-01-30", "2028-02-29")]
)
def test_a_month_later_is_a_calendar_month(start, end):
    def at(day):
        return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())

    assert month_later(at(start)) == at(end)
