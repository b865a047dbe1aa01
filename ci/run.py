"""Runs every check in turn, and prints `N passed, N failed` as the last line.

A step is one check, or as many as its JUnit reports list. Each has a folder below var/ci/, for its output, which is
shown if it fails, and for its own stack if it needs one. Only the standard library is used: nothing is installed yet.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "var" / "ci"
STEP_SECONDS = 1500
SHOWN_LINES = 300
DAY_SECONDS, LONG_STEP_SECONDS = 86_400, 240

# The part of the outer environment that is kept: paths, language, access to the registries. No key, address or option.
KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|LANG|LC_\w+|TZ|TMPDIR|PYENV_\w+"
    r"|(PIP|NPM_CONFIG)_\w+|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_\w+|\w+_CA_(BUNDLE|CERTS)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Step:
    """A command that runs in the checkout. `{folder}` in its words stands for the step's own folder.

    reports: it leaves JUnit reports (*.xml) in its folder, and counts as the checks that they list.
    prepares: it counts as a check only if it fails.
    counts_prompts: it counts the prompts of a day, so it does not begin just before midnight UTC.
    """

    name: str
    command: Sequence[str]
    reports: bool = False
    prepares: bool = False
    counts_prompts: bool = False


@dataclass
class Result:
    """How many checks of a step ran, and with what outcome."""

    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)
    remark: str = ""


def environment(outside: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return a step's environment: the kept part of the outer one, and variables that stop it from reading more."""
    return {name: value for name, value in outside.items() if KEPT.fullmatch(name)} | {
        "CI": "true",
        "ENV_FILE": os.devnull,
        "FLASK_SKIP_DOTENV": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
        "SCREENSHOTS": str(folder),
    }


def count(folder: Path) -> Result:
    """Return what the JUnit reports in a folder say."""
    result = Result()
    for report in sorted(folder.glob("*.xml")):
        for case in ElementTree.parse(report).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                result.failed += 1
            elif (skip := case.find("skipped")) is not None:
                result.skipped.append(f"{case.get('classname')}.{case.get('name')}: {skip.get('message')}")
            else:
                result.passed += 1
    return result


def run(step: Step, folder: Path, outside: Mapping[str, str] = os.environ) -> Result:
    """Run a step to its end, with its output in `folder`. Then kill whatever it has left running."""
    folder.mkdir(parents=True)
    if step.counts_prompts and (left := DAY_SECONDS - int(time.time()) % DAY_SECONDS) < LONG_STEP_SECONDS:
        time.sleep(left)
    command = [word.replace("{folder}", str(folder)) for word in step.command]
    with (folder / "output.txt").open("wb") as output:
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(outside, folder), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except OSError as error:
            return Result(failed=1, remark=str(error))
        remark = ""
        try:
            code = process.wait(timeout=STEP_SECONDS)
            remark = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            remark = f"not finished after {STEP_SECONDS} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    result = count(folder) if step.reports else Result(passed=0 if remark or step.prepares else 1)
    if step.reports and not result.passed + result.failed:
        remark = remark or "no check ran"
    if remark and not result.failed:
        result.failed = 1
    result.remark = remark
    return result


def last_lines(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return "\n".join(lines[-SHOWN_LINES:])


def main(steps: Sequence[Step], results: Path) -> int:
    """Run everything, unless another run is using the folder of the results, which is emptied first."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.with_suffix(".lock").open("w") as lock:  # the system drops the lock with the process
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another run is writing to {results}: wait until it has finished.\n0 passed, 1 failed", flush=True)
            return 1
        return run_all(steps, results)


def run_all(steps: Sequence[Step], results: Path) -> int:
    """Print a line for each step, the output of each that failed, and the sum. Returns 0 if every check passed."""
    shutil.rmtree(results, ignore_errors=True)
    began = time.monotonic()
    sum_of = Result()
    for number, step in enumerate(steps, start=1):
        step_began = time.monotonic()
        folder = results / f"{number:02}"
        result = run(step, folder)
        outcome = "FAILED" if result.failed else "ready" if step.prepares else "passed"
        seconds = time.monotonic() - step_began
        counts = f"{result.passed} of {result.passed + result.failed}" if step.reports else ""
        print(f"{step.name:<34} {outcome:<7} {seconds:6.1f} s  {counts}".rstrip(), flush=True)
        if result.failed:
            output = folder / "output.txt"
            print(f"\n{last_lines(output)}\n({result.remark}; the whole output is in {output})\n", flush=True)
        else:
            shutil.rmtree(folder / "stack", ignore_errors=True)
        sum_of.passed += result.passed
        sum_of.failed += result.failed
        sum_of.skipped += result.skipped
    for skipped in sum_of.skipped:
        print(f"Skipped: {skipped}")
    print(f"Everything took {time.monotonic() - began:.0f} s.")
    print(f"{sum_of.passed} passed, {sum_of.failed} failed", flush=True)
    return 1 if sum_of.failed or not sum_of.passed else 0


PYTHON = ".venv/bin/python"
TOOLS = "var/ci/tools/bin"  # filled by ci/install.sh
OWN_STACK = ["env", "SANDBOX_VAR={folder}/stack", PYTHON, "-m", "ci.with_stack"]
COLLECTION = "docs/postman/gemini-backend.postman_collection.json"
NEWMAN = [
    "ci/node/node_modules/.bin/newman", "run", COLLECTION,
    "--environment", COLLECTION.replace("collection.json", "environment.json"),
    "--env-var", "base_url={address}", "--timeout-request", "90000", "--color", "off", "--disable-unicode",
    "--reporters", "cli,junit", "--reporter-junit-export", "{folder}/newman.xml",
]  # fmt: skip
UNLIMITED = ["env", "RATE_LIMIT_PER_MINUTE=0", "BASIC_DAILY_PROMPTS=100000"]
SCHEMATHESIS = [
    "env", "SCHEMATHESIS_HOOKS=ci.schemathesis_hooks", "SUCCESSES={folder}/successes.xml",
    f"{TOOLS}/schemathesis", "--config-file", "ci/schemathesis.toml", "run", "{address}/openapi.json",
    "--report", "junit", "--report-junit-path", "{folder}/schemathesis.xml",
]  # fmt: skip

STEPS = [
    Step("Tests", ["make", "test", "ARGS=--junitxml='{folder}/pytest.xml'"], reports=True),
    Step("Tools for the other checks", ["sh", "ci/install.sh", "var/ci/tools"], prepares=True),
    Step("Tests of whole processes", ["make", "test-processes", "ARGS=--junitxml='{folder}/pytest.xml'"], reports=True),
    Step("Tests with OpenTelemetry", ["sh", "ci/opentelemetry.sh", "{folder}"], reports=True),
    Step("Style", ["make", "lint"]),
    Step("Types", ["make", "types"]),
    Step("Imports", ["make", "imports"]),
    Step("Dangerous calls", ["make", "danger"]),
    Step("Chaos, short form", ["make", "chaos", "ARGS=--short"], counts_prompts=True),
    Step("Demo", [*OWN_STACK, "make", "demo"], counts_prompts=True),
    Step("README's commands", [*OWN_STACK, PYTHON, "-m", "ci.check_readme"]),
    Step("Checkout in a browser", [*OWN_STACK, f"{TOOLS}/python", "-m", "ci.browser.buy_pro"], counts_prompts=True),
    Step("Chat page in a browser", [*OWN_STACK, f"{TOOLS}/python", "-m", "ci.browser.chat_page"], counts_prompts=True),
    Step("Docs page in a browser", [*OWN_STACK, f"{TOOLS}/python", "-m", "ci.browser.docs_page"]),
    Step("Postman collection, assertions", [*OWN_STACK, *NEWMAN], reports=True, counts_prompts=True),
    Step(
        "Generated clients",
        [*OWN_STACK, f"{TOOLS}/python", "-m", "ci.clients.check", "{folder}/clients"],
        counts_prompts=True,
    ),
    Step("API against its description", [*UNLIMITED, *OWN_STACK, *SCHEMATHESIS], reports=True),
    Step("Image, step by step", [PYTHON, "-m", "ci.check_image"]),
]

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs each `finally`, so that no step is left behind
    sys.exit(main(STEPS, RESULTS))
