"""What ci/check_image.py reads out of the Dockerfile and .dockerignore."""

import os
from pathlib import Path

import pytest

from ci import check_image
from sandbox.stack.accounts import Account


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("requirements.txt", True),
        ("app/__init__.py", True),
        ("app/__pycache__/x.py", False),
        ("app/core/http.pyc", False),
        ("migrations/versions/0005.py", True),
        (".env", False),
        ("tests/conftest.py", False),
        ("var/stack.env", False),
    ],
)
def test_dockerignore_decides_what_is_let_in(path, inside):
    assert check_image.let_in(Path(path)) is inside


def test_a_file_that_dockerignore_leaves_out_is_no_part_of_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr(check_image, "DOCKERFILE", "FROM python:3.11-slim\nCOPY README.md ./")
    with pytest.raises(AssertionError, match=r"README\.md"):
        check_image.copy_files(tmp_path)


def test_a_python_other_than_the_images_is_refused(monkeypatch):
    monkeypatch.setattr(check_image, "DOCKERFILE", "FROM python:3.10-slim AS packages\nFROM python:3.10-slim")
    with pytest.raises(AssertionError, match=r"3\.10"):
        check_image.python_of_the_image([])


def test_root_is_refused_as_the_images_user(monkeypatch):
    monkeypatch.setattr(check_image, "DOCKERFILE", "FROM python:3.11-slim\nUSER root")
    with pytest.raises(AssertionError):
        check_image.ordinary_user(Account(65534, 65534))


def test_files_that_root_copies_are_readable_by_the_images_user_whatever_roots_umask(tmp_path, monkeypatch):
    def copy_instead(**_: object) -> None:
        check_image.copy_files(tmp_path)
        raise InterruptedError

    monkeypatch.setattr(check_image, "PostgresServer", copy_instead)
    before = os.umask(0o077)
    try:
        with pytest.raises(InterruptedError):
            check_image.main()
    finally:
        os.umask(before)
    assert (tmp_path / "wsgi.py").stat().st_mode & 0o004
