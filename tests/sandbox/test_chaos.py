"""A disaster counts as survived only when every prompt was accepted and nothing went wrong."""

import subprocess
import sys

import pytest

from sandbox.people import Findings
from tests.web_process import ROOT


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


def test_an_unknown_disaster_is_refused_in_a_sentence():
    command = [sys.executable, "-m", "sandbox.chaos", "--only", "an earthquake"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such disaster: 'an earthquake'" in done.stderr
