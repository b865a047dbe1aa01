"""What counts as a line of code."""

from ci.code_lines import report, size_of

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


def test_blank_lines_comments_and_docstrings_are_not_code(tmp_path):
    (tmp_path / "module.py").write_text(SOURCE)
    size = size_of(tmp_path / "module.py")
    assert (size.physical, size.code, size.imports) == (16, 8, 4)


def test_a_report_adds_a_folder_up(tmp_path):
    (tmp_path / "long.py").write_text("a = 1\n" * 351)
    (tmp_path / "empty.py").write_text("")
    lines = dict(line.rsplit(maxsplit=1) for line in report(tmp_path).splitlines())
    assert lines["files"] == "2"
    assert lines["code lines"] == "351"
    assert lines["files under 40 lines"] == "1"
    assert lines["files over 350 lines"] == "1"
