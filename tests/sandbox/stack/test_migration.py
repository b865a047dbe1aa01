"""`make migration m="…"`: one new file of what the models say beyond the newest migration, and servers of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.web_process import ROOT

TITLE = "    title: Mapped[str | None] = mapped_column(String(MAX_TITLE_CHARS))\n"
COLOUR = "    colour: Mapped[str | None] = mapped_column(String(7))\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a migration is written from, where it may be written."""
    for name in ("app", "migrations", "sandbox"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("config.py", "production_rules.py", "wsgi.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def write_migration(checkout: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sandbox.stack.migration", *names]
    elsewhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/nothing", "REDIS_URL": "redis://127.0.0.1:1"}
    environ = os.environ | elsewhere
    return subprocess.run(command, check=False, cwd=checkout, env=environ, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("names", [[], [""], ["  "]], ids=["none", "empty", "blank"])
def test_a_migration_without_a_name_is_one_sentence(checkout: Path, names: list[str]):
    done = write_migration(checkout, *names)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert 'A migration needs a name: make migration m="' in done.stderr


@pytest.mark.processes
def test_one_migration_is_written_with_what_the_models_say_beyond_the_newest(checkout: Path):
    models, folder = checkout / "app" / "chatrooms" / "models.py", checkout / "migrations" / "versions"
    models.write_text(models.read_text().replace(TITLE, TITLE + COLOUR))
    before = set(folder.glob("*.py"))

    done = write_migration(checkout, "Colours of chatrooms")

    assert done.returncode == 0, done.stderr
    (written,) = set(folder.glob("*.py")) - before
    source, newest = written.read_text(), max(before).name[:4]
    assert written.name == f"{int(newest) + 1:04}_colours_of_chatrooms.py"
    assert f'down_revision = "{newest}"' in source
    operations = [line.strip() for line in source.splitlines() if line.strip().startswith("op.")]
    assert operations == [
        'op.add_column("chatrooms", sa.Column("colour", sa.String(length=7), nullable=True))',
        'op.drop_column("chatrooms", "colour")',
    ]
