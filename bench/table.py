"""The table of what the service costs, beside its aims and floors of the same run: `python -m bench table`.

Everything runs on this machine as in the Procfile, with the load generator and a Gemini stand-in that takes 500 ms.
Compare within one run, never between machines. `--repeat 3` runs all of it three times and prints medians and each run.
"""

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import psutil

from bench import http
from bench.http import MODEL_SECONDS
from bench.load import Load, call, drive
from bench.rows import HEADS, Bench, Floor, Row, median_of, milliseconds
from bench.service import arrived, floor_server, prompt, service, wait_until_idle, with_new_rooms
from bench.streams import WORD_SECONDS, first_pieces, first_pieces_directly
from sandbox.people import Person
from sandbox.stack.deployment import Deployment

USERS, STREAMS = 100, 50
PROCESSES = ("web", "worker", "beat")


def crowd(stack: Deployment, people: Sequence[Person]) -> tuple[float, Load]:
    """Let everybody send at once. Returns the seconds until the last reply ended, and how the prompts were accepted.

    Raises RuntimeError if one was not accepted.
    """
    calls = [prompt(person, text="All at once") for person in with_new_rooms(people)]
    wait_until_idle(stack)
    began = time.time()
    accepted = drive(calls)
    if set(accepted.statuses) != {202}:
        raise RuntimeError(f"Not all prompts were accepted: {accepted.statuses}.")
    return wait_until_idle(stack) - began, accepted


def replies(bench: Bench) -> Iterator[Row]:
    """Measure a hundred users who send at the same moment."""
    last, accepted = crowd(bench.stack, bench.people)
    empty = drive([call("GET", f"{bench.floor.url}/empty")] * USERS)
    p50, floor = accepted.percentile(0.5), empty.percentile(0.5)
    yield Row(
        f"{USERS} users at once: last reply; p50 of the 202",
        "{:.2f} s; {:.0f} ms",
        (last, milliseconds(p50)),
        "≤ 1.5 s; ≤ 300 ms",
        (
            Floor("the model alone, {:g} s", MODEL_SECONDS, last / MODEL_SECONDS),
            Floor(f"{USERS} empty views at once, {{:.0f}} ms", milliseconds(floor), p50 / floor),
        ),
    )


def streams(bench: Bench) -> Iterator[Row]:
    """Measure the time to the first piece, with a model that begins at once and writes a word every 30 ms."""
    people = with_new_rooms(bench.people[:STREAMS])
    bench.stack.gemini.behave(pace=WORD_SECONDS)
    alone = [piece for person in people[:10] for piece in first_pieces([person])]
    together = first_pieces(people)
    directly = [piece for _ in range(10) for piece in first_pieces_directly(bench.stack, 1)]
    directly_together = first_pieces_directly(bench.stack, STREAMS)
    bench.stack.gemini.behave(delay=MODEL_SECONDS)
    p50s = [milliseconds(statistics.median(each)) for each in (alone, together, directly, directly_together)]
    yield Row(
        f"first delta of a stream, 1 / {STREAMS} replies at once: p50",
        "{:.0f} / {:.0f} ms",
        (p50s[0], p50s[1]),
        "≤ 15 / 150 ms",
        (
            Floor("the stand-in followed directly, {:.1f} ms", p50s[2], p50s[0] / p50s[2]),
            Floor(f"{STREAMS} at once, {{:.0f}} ms", p50s[3], p50s[1] / p50s[3]),
        ),
    )


def memory(bench: Bench) -> Iterator[Row]:
    """Measure the memory that web, worker and beat hold after the earlier measurements."""
    wait_until_idle(bench.stack)
    parts = {name: proportional_mb(bench.stack.process_ids(name)) for name in PROCESSES}
    total, floor = sum(parts.values()), proportional_mb(bench.floor.process_ids)
    yield Row(
        "memory of web + worker + beat after the measurements, proportional set size",
        f"{{:.0f}} MB ({', '.join(f'{name} {{:.0f}}' for name in parts)})",
        (total, *parts.values()),
        "≤ 260 MB",
        (Floor("a web with the floor's views alone, {:.0f} MB", floor, total / floor),),
    )


def proportional_mb(process_ids: Iterable[int]) -> float:
    """Return the MiB of some processes; what several share counts once (smaps_rollup of proc(5), Linux)."""
    rollups = (Path(f"/proc/{process_id}/smaps_rollup").read_text() for process_id in process_ids)
    return sum(int(kilobytes) for rollup in rollups for kilobytes in re.findall(r"^Pss: +(\d+)", rollup, re.M)) / 1024


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "list": http.cached_list,
    "accept": http.accepted,
    "wait": http.waited,
    "sustained": http.sustained,
    "replies": replies,
    "streams": streams,
    "memory": memory,
}


def run(names: Sequence[str], seconds: float) -> list[Row]:
    """Start a service, measure, and stop it. Returns the rows."""
    with service() as stack, floor_server(stack) as floor:
        stack.gemini.behave(delay=MODEL_SECONDS)
        bench = Bench(stack, floor, arrived(stack, USERS), seconds)
        return [row for name in names for row in MEASURES[name](bench)]


def main(names: Sequence[str], *, seconds: float, repeat: int) -> None:
    """Print the table. seconds: length of a load; the sustained one lasts four times as long. repeat: how many runs."""
    print(f"{psutil.cpu_count()} cores, Python {sys.version.split()[0]}; {repeat} run(s), {seconds:g} s per load\n")
    heads = (*HEADS, *([] if repeat == 1 else ["each run"]))
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|", flush=True)
    runs = [run(names, seconds) for _ in range(repeat)]
    for rows in zip(*runs, strict=True):
        print(median_of(rows).line(*([] if repeat == 1 else ["; ".join(row.measured for row in rows)])), flush=True)
