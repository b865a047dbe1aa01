"""`make bench` prints the table; `make bench ARGS=growth`, or `python -m bench growth`, another of the measurements."""

import argparse
from collections.abc import Sequence

from bench import adapters, growth, memory, metrics, replies, requests, search, streams, table, workers

OTHERS = {
    "streams": (streams.main, "first pieces, and what 200 open streams cost"),
    "memory": (memory.main, "what web, worker and beat hold"),
    "workers": (workers.main, "what another worker process brings"),
    "growth": (growth.main, "each route with a million messages, beside an empty database"),
    "search": (search.main, "search among a million messages, and its migration"),
    "requests": (requests.main, "CPU of one request in a web process"),
    "adapters": (adapters.main, "CPU of a call, for each SDK of Gemini"),
    "metrics": (metrics.main, "a scrape and a tick with a million messages"),
}


def parser() -> argparse.ArgumentParser:
    """The command line; the chosen part is the `run` of what it returns."""
    whole = argparse.ArgumentParser(prog="python -m bench", description="Measure speed.")
    parts = whole.add_subparsers(title="measurements", metavar="what", required=True)
    add_table(parts.add_parser("table", help="what the service costs beside its floors"), list(table.MEASURES))
    add_table(parts.add_parser("http", help="the rows of it that are requests"), list(table.HTTP))
    part = parts.add_parser("replies", help="100 users at once, for numbers of the worker's threads")
    part.add_argument("--threads", action="append", type=int, help="once for each row")
    part.set_defaults(run=lambda chosen: replies.main(chosen.threads or [64, 128]))
    for name, (main, words) in OTHERS.items():
        parts.add_parser(name, help=words).set_defaults(run=lambda _, main=main: main())
    return whole


def add_table(part: argparse.ArgumentParser, rows: Sequence[str]) -> None:
    """Give a part the options of the table, with these rows to choose from."""
    part.add_argument("--only", action="append", choices=rows, help="this measurement alone; may be given again")
    part.add_argument("--seconds", type=float, default=5, help="of each load, four times as many of the sustained one")
    part.add_argument("--repeat", type=int, default=1, help="start everything so often; medians, and each run")
    part.set_defaults(run=lambda chosen: table.main(chosen.only or rows, seconds=chosen.seconds, repeat=chosen.repeat))


if __name__ == "__main__":
    chosen = parser().parse_args()
    chosen.run(chosen)
