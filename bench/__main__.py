"""`make bench` prints the table. `make bench ARGS=growth` or `python -m bench growth` runs another measurement."""

import argparse

from bench import adapters, growth, requests, search, streams, table, workers

PARTS = {
    "table": (list(table.MEASURES), "what the service costs, beside its floors"),
    "http": (["list", "accept", "wait", "sustained"], "part of the table: one request, and many"),
    "replies": (["replies"], "part of the table: a hundred users at once"),
    "streams": (["streams"], "part of the table: the first piece of a stream"),
    "memory": (["memory"], "part of the table: the memory of all processes"),
}
OTHERS = {
    "open-streams": (streams.main, "what 200 open streams cost"),
    "workers": (workers.main, "what more worker processes bring"),
    "growth": (growth.main, "each route with a million messages, beside a small database"),
    "search": (search.main, "search among a million messages, and its migration"),
    "requests": (requests.main, "CPU of one request in a web process"),
    "adapters": (adapters.main, "CPU of a call, for each Gemini SDK"),
}


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser. The `run` function in its result runs the chosen part."""
    whole = argparse.ArgumentParser(prog="python -m bench", description="Measure speed.")
    parts = whole.add_subparsers(title="measurements", metavar="what", required=True)
    for name, (rows, words) in PARTS.items():
        part = parts.add_parser(name, help=words)
        part.add_argument("--only", action="append", choices=rows, help="only this row; may be repeated")
        part.add_argument(
            "--seconds", type=float, default=5, help="length of a load; the sustained one is four times as long"
        )
        part.add_argument("--repeat", type=int, default=1, help="number of runs; prints their medians, and each run")
        part.set_defaults(run=run_part, rows=rows)
    for name, (main, words) in OTHERS.items():
        parts.add_parser(name, help=words).set_defaults(run=lambda _, main=main: main())
    return whole


def run_part(chosen: argparse.Namespace) -> None:
    """Print rows of the table."""
    table.main(chosen.only or chosen.rows, seconds=chosen.seconds, repeat=chosen.repeat)


if __name__ == "__main__":
    chosen = parser().parse_args()
    chosen.run(chosen)
