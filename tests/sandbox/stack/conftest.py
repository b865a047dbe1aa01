"""What the tests of the stack share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder with a short path that every account can enter, which `tmp_path` is not."""
    folder = Path(tempfile.mkdtemp(prefix="stack-")).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
