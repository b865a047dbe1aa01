"""`make bench`, or `python -m bench replies --pool threads:64 --pool prefork:16`, or `python -m bench metrics`."""

import argparse

from bench import metrics, replies


def pool(text: str) -> tuple[str, int]:
    name, _, concurrency = text.partition(":")
    return name, int(concurrency or 64)


parser = argparse.ArgumentParser(description="Measure speed.")
parser.add_argument("what", nargs="?", choices=["replies", "metrics"], default="replies")
parser.add_argument("--pool", action="append", type=pool, help="name:concurrency, once for each row")
chosen = parser.parse_args()
if chosen.what == "metrics":
    metrics.main()
else:
    replies.main(chosen.pool or [("threads", 64), ("threads", 128)])
