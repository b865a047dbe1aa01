"""What is deployed is what is tested, and every package is pinned with its hashes."""

import json
import re
import sys

import psycopg2
import pytest
import redis
import yaml

from tests.web_process import ROOT

PINS = [
    "requirements.txt",
    "requirements-genai.txt",
    "requirements-otel.txt",
    "requirements-dev.txt",
    "ci/requirements.txt",
]


def image_of(service: str) -> str:
    return str(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][service]["image"])


def test_postgresql_is_deployed_in_the_version_that_is_tested(postgres):
    connection = psycopg2.connect(postgres.url)
    major = connection.server_version // 10_000
    connection.close()
    assert image_of("postgres").startswith(f"postgres:{major}-")
    [database] = yaml.safe_load((ROOT / "render.yaml").read_text())["databases"]
    assert database["postgresMajorVersion"] == str(major)


def test_compose_runs_the_valkey_that_is_tested(valkey):
    with redis.Redis.from_url(valkey.url) as client:
        major = client.info("server")["valkey_version"].split(".")[0]
    assert image_of("redis").startswith(f"valkey/valkey:{major}-")


def test_the_image_runs_the_python_that_ci_does():
    versions = set(re.findall(r"^FROM python:(\d+\.\d+)-slim", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    [oldest] = re.findall(r'^requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert versions == {oldest}
    assert sys.version_info >= tuple(int(number) for number in oldest.split("."))


def test_the_documents_tell_these_versions():
    page = (ROOT / "docs/operations.md").read_text()
    told = dict(re.findall(r"^\| (Python|PostgreSQL|Valkey) \| ([\d.]+) \| \2 ", page, flags=re.MULTILINE))
    assert f"FROM python:{told['Python']}-slim" in (ROOT / "Dockerfile").read_text()
    assert image_of("postgres").startswith(f"postgres:{told['PostgreSQL']}-")
    assert image_of("redis").startswith(f"valkey/valkey:{told['Valkey']}-")


@pytest.mark.parametrize("file", PINS)
def test_every_package_is_pinned_with_hashes(file):
    entries = re.split(r"\n(?=\S)", (ROOT / file).read_text().strip())
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.]+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_every_package_of_npm_is_locked_with_its_hash():
    packages = json.loads((ROOT / "ci/node/package-lock.json").read_text())["packages"]
    assert len(packages) > 1
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []


@pytest.mark.parametrize(
    "file",
    [
        "Dockerfile",
        "sandbox/stack/install.sh",
        "ci/install.sh",
        "ci/opentelemetry.sh",
        "README.md",
        "docs/tracing.md",
    ],
)
def test_packages_are_installed_by_their_hashes(file):
    text = (ROOT / file).read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install.*-r .*", text)
    assert installs
    assert all("--require-hashes" in command and "--no-deps" in command for command in installs)


def images_and_actions() -> list[str]:
    """What others build and we run, as the files name it; `compose.yaml` also names the image that it builds."""
    workflows = [yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").iterdir()]
    jobs = [job for workflow in workflows for job in workflow["jobs"].values()]
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    return [
        *re.findall(r"^FROM (?:--\S+ )*(\S+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE),
        *(service["image"] for service in services if "build" not in service),
        *(job["container"] for job in jobs if "container" in job),
        *(step["uses"] for job in jobs for step in job["steps"] if "uses" in step),
    ]


def test_images_and_actions_are_pinned_by_a_tag():
    pinned = [re.fullmatch(r"[\w./-]+[:@]([\w.:@-]+)", name) for name in images_and_actions()]
    assert len(pinned) >= 6
    assert all(pinned), images_and_actions()
    assert not {match[1] for match in pinned if match} & {"latest", "main", "master"}
