"""A disaster counts as survived only when every prompt was accepted and nothing went wrong."""

import pytest

from sandbox.people import Findings


def test_all_accepted_and_nothing_wrong_is_good():
    assert Findings(accepted=40).good


@pytest.mark.parametrize(
    "found",
    [
        Findings(),
        Findings(accepted=39, refused=1),
        Findings(accepted=40, lost=1),
        Findings(accepted=40, doubled=1),
        Findings(accepted=40, out_of_order=1),
        Findings(accepted=40, miscounted=1),
    ],
)
def test_anything_lost_refused_or_wrong_is_not_good(found):
    assert not found.good
