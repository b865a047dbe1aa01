"""`make bench`, or one of them: `python -m bench replies --pool threads:64 --pool prefork:16`."""

import argparse

from bench import adapters, metrics, replies, requests, streams, table, workers


def pool(text: str) -> tuple[str, int]:
    name, _, concurrency = text.partition(":")
    return name, int(concurrency or 64)


parser = argparse.ArgumentParser(description="Measure speed.")
parser.add_argument(
    "what",
    nargs="?",
    choices=["table", "workers", "requests", "replies", "streams", "adapters", "metrics", "all"],
    default="all",
)
parser.add_argument("--pool", action="append", type=pool, help="name:concurrency, once for each row")
chosen = parser.parse_args()
if chosen.what in {"table", "all"}:
    table.main()
if chosen.what in {"workers", "all"}:
    workers.main()
if chosen.what in {"requests", "all"}:
    requests.main()
if chosen.what in {"replies", "all"}:
    replies.main(chosen.pool or [("threads", 64), ("threads", 128)])
if chosen.what in {"streams", "all"}:
    streams.main()
if chosen.what in {"adapters", "all"}:
    adapters.main()
if chosen.what in {"metrics", "all"}:
    metrics.main()
