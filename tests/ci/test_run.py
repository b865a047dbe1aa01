"""`.ci/run` counts what ran, fails when nothing did, and lets nothing in from outside."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ci import run
from ci.run import Step
from sandbox.stack import processes
from sandbox.stack.processes import wait_until

PYTEST_LIKE = "=== 1 warning in 0.20s ==="
REPORT = """
import sys
open(sys.argv[1] + "/report.xml", "w").write('''<testsuites><testsuite>
<testcase classname="a" name="one"/><testcase classname="a" name="two"/>
<testcase classname="a" name="three"><failure/></testcase><testcase classname="a" name="four"><error/></testcase>
<testcase classname="a" name="five"><skipped message="no such machine"/></testcase></testsuite></testsuites>''')
"""


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program, "{folder}"]


def last_line(steps: list[Step], results: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the steps. Returns the exit code, the last line and all of the output."""
    code = run.main(steps, results)
    told = capfd.readouterr()
    assert not told.err
    return code, told.out.splitlines()[-1], told.out


def test_the_last_line_is_the_sum_of_what_ran(tmp_path, capfd):
    steps = [Step("One", python("print('heard by nobody')")), Step("Many", python(REPORT), reports=True)]
    code, last, output = last_line(steps, tmp_path / "ci", capfd)
    assert (code, last) == (1, "3 passed, 2 failed")
    assert "Skipped: a.five: no such machine" in output
    assert "heard by nobody" not in output


def test_the_output_and_exit_code_of_a_failed_step_are_shown(tmp_path, capfd):
    step = Step("Broken", python("import sys; print('a reason'); sys.exit(3)"))
    code, last, output = last_line([step], tmp_path / "ci", capfd)
    assert (code, last) == (1, "0 passed, 1 failed")
    assert "a reason" in output
    assert "exit code 3" in output


def test_a_step_that_ran_no_check_has_failed(tmp_path, capfd):
    step = Step("Silent", python(f"print({PYTEST_LIKE!r})"), reports=True)
    assert last_line([step], tmp_path / "ci", capfd)[:2] == (1, "0 passed, 1 failed")


def test_a_bad_exit_code_after_passed_checks_is_a_failure(tmp_path, capfd):
    program = REPORT.replace("<failure/>", "").replace("<error/>", "") + "sys.exit(1)"
    assert last_line([Step("Late", python(program), reports=True)], tmp_path / "ci", capfd)[:2] == (
        1,
        "4 passed, 1 failed",
    )


def test_preparation_is_no_check_and_a_run_without_checks_fails(tmp_path, capfd):
    step = Step("Tools", python(""), prepares=True)
    assert last_line([step], tmp_path / "ci", capfd)[:2] == (1, "0 passed, 0 failed")


def test_a_program_that_is_missing_is_a_failure(tmp_path, capfd):
    step = Step("Nowhere", [str(tmp_path / "no-such-program")])
    assert last_line([step], tmp_path / "ci", capfd)[:2] == (1, "0 passed, 1 failed")


def test_only_a_step_that_counts_the_prompts_of_a_day_waits_for_midnight(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(run, "time", SimpleNamespace(time=lambda: 20_000.0 * 86_400 - 60, sleep=slept.append))
    for counts_prompts, waits in ((False, []), (True, [60])):
        step = Step("Step", python(""), counts_prompts=counts_prompts)
        assert run.run(step, tmp_path / str(counts_prompts)).passed == 1
        assert slept == waits


def test_no_key_address_or_option_from_outside_reaches_a_step(tmp_path):
    outside = {
        "PATH": os.environ["PATH"], "PIP_CERT": "/etc/ca", "LANG": "C.UTF-8",
        "GEMINI_API_KEY": "AIza-real", "STRIPE_SECRET_KEY": "sk_live", "GOOGLE_API_KEY": "AIza-real",
        "DATABASE_URL": "postgresql://real", "BASE_URL": "http://real", "PGHOST": "real", "ENV_FILE": ".env",
        "PYTEST_ADDOPTS": "--collect-only", "MAKEFLAGS": "-n", "PYTHONPATH": "/elsewhere", "APP_ENV": "production",
    }  # fmt: skip
    step = Step("Environment", python("import os, json; print(json.dumps(dict(os.environ)))"))
    assert run.run(step, tmp_path / "ci", outside).passed == 1
    told = (tmp_path / "ci" / "output.txt").read_text()
    assert "real" not in told
    assert "sk_live" not in told
    assert not [name for name in ("PYTEST_ADDOPTS", "MAKEFLAGS", "PYTHONPATH", "APP_ENV") if name in told]
    assert f'"ENV_FILE": "{os.devnull}"' in told
    assert "/etc/ca" in told


def test_processes_that_a_step_started_end_with_it(tmp_path):
    program = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
    run.run(Step("Parent", python(program)), tmp_path / "ci")
    pid = int((tmp_path / "ci" / "output.txt").read_text())
    assert wait_until(lambda: not processes.alive(pid), seconds=10)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run `.ci/run` in a checkout whose first step, `make test`, goes on and on. Yields it and that step's output."""
    for file in (".ci/run", "ci/run.py"):
        (tmp_path / file).parent.mkdir()
        shutil.copy(run.ROOT / file, tmp_path / file)
    (tmp_path / "Makefile").write_text("test:\n\t@sleep 600 & echo $$!; wait\n")
    first = processes.spawn(["bash", ".ci/run"], output=subprocess.DEVNULL, cwd=tmp_path)
    said = tmp_path / "var" / "ci" / "01" / "output.txt"
    assert wait_until(lambda: said.exists() and said.read_text().endswith("\n"), seconds=30)
    yield first, said
    processes.stop(first, signal.SIGINT, seconds=10)


def test_a_second_run_in_the_same_checkout_leaves_the_first_alone(running, tmp_path):
    _, said = running
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"Another run is writing to {tmp_path / 'var' / 'ci'}: wait until it has finished.",
        "0 passed, 1 failed",
    ]
    assert processes.alive(int(said.read_text()))


def test_a_run_that_is_told_to_end_leaves_nothing_running(running):
    first, said = running
    step = int(said.read_text())
    processes.stop(first, signal.SIGTERM, seconds=10)
    assert first.returncode == 143
    assert wait_until(lambda: not processes.alive(step), seconds=10)
