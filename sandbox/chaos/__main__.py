"""`make chaos`: strike a running stack with 20 replies in flight, and see whether every message is answered.

    python -m sandbox.chaos [--short] [--only WORDS]

Exits 1 when a message was refused, lost, doubled, answered out of order or charged wrongly, or when a worker takes no
more.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from sandbox.chaos.disasters import DISASTERS, Disaster
from sandbox.chaos.people import Findings, Person, everybody, look, wait_for_all
from sandbox.stack.deployment import Deployment

IN_FLIGHT = 20
PATIENCE_SECONDS = 90.0
GENERATION_SECONDS = 1.5
WORKERS = 2
SLOTS = IN_FLIGHT // WORKERS  # of each: all are taken when disaster strikes
ROW = "{name:<40} {accepted:>8} {refused:>7} {lost:>4} {doubled:>7} {out_of_order:>8} {miscounted:>7} {calls:>5} "
ROW += "{longest:>8}"


def survive(stack: Deployment, disaster: Disaster) -> tuple[Findings, int]:
    """Let a disaster happen; what was found afterwards, and how often Gemini was asked."""
    people = [Person(stack.url) for _ in range(IN_FLIGHT)]
    everybody(people, Person.arrive)
    stack.gemini.reset()
    stack.gemini.clear_requests()
    stack.gemini.behave(delay=GENERATION_SECONDS)
    everybody(people, lambda person: person.send("First"))
    stack.gemini.wait_for(in_flight_at_least=IN_FLIGHT)
    everybody(people, lambda person: person.send("Second"))
    disaster.strike(stack)
    stack.gemini.reset()
    wait_for_all(people, seconds=PATIENCE_SECONDS)
    return look(people, sent=2), stack.gemini.stats()["calls"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Crashes on purpose, and what becomes of accepted messages.")
    parser.add_argument("--short", action="store_true", help="only the disasters that tell most")
    parser.add_argument("--only", default="", help="only those whose name has these words")
    chosen = parser.parse_args()
    disasters = [
        disaster
        for disaster in DISASTERS
        if chosen.only in disaster.name and (disaster.in_short_form or not chosen.short)
    ]
    if not disasters:
        parser.error(f"no such disaster: {chosen.only!r}; there are: {', '.join(each.name for each in DISASTERS)}")
    logs = Path(tempfile.mkdtemp(prefix="chaos-"))
    begun = time.monotonic()
    all_good = True
    print(f"{IN_FLIGHT} replies in flight, as many queued behind them, each time. Logs: {logs}\n", flush=True)
    heads = {"name": "what happens", "accepted": "accepted", "refused": "refused", "lost": "lost", "doubled": "doubled"}
    heads |= {"out_of_order": "disorder", "miscounted": "charged", "calls": "calls", "longest": "longest"}
    print(ROW.format(**heads), flush=True)
    environ = {"GEMINI_TIMEOUT": "4", "WORKER_CONCURRENCY": str(SLOTS)}
    with Deployment(logs, workers=WORKERS, environ=environ) as stack:
        for disaster in disasters:
            found, calls = survive(stack, disaster)
            silent = stack.silent_workers(seconds=PATIENCE_SECONDS)
            all_good &= found.good and not silent
            row = vars(found) | {"name": disaster.name, "calls": calls, "longest": f"{found.longest_wait:.1f} s"}
            print(ROW.format(**row), *(f"{worker} takes no task any more" for worker in silent), flush=True)
    verdict = "Every message was accepted and has one reply." if all_good else f"Not all came through; see {logs}."
    print(f"\n{verdict} ({time.monotonic() - begun:.0f} s)")
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
