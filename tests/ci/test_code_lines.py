"""What counts as a line of code."""

from ci.code_lines import code_lines

SOURCE = '''"""A module
of two lines."""

import os
from pathlib import (
    Path,
)

# a comment
NAME = """not a docstring,
but two lines"""


def name() -> str:  # a comment after code
    """Its docstring."""
    return NAME
'''


def test_blank_lines_comments_and_docstrings_are_not_code():
    assert code_lines(SOURCE) == 8
