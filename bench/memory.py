"""What the service holds in memory: `python -m bench memory`, when nobody has come and after 200 replies.

Proportional set sizes: what several processes share counts once. Unique is what would come back if one ended alone.
"""

from collections.abc import Iterable
from pathlib import Path

from bench.load import drive
from bench.service import arrived, prompt, service, wait_until_idle
from sandbox.stack.deployment import Deployment

PROCESSES = ("web", "worker", "beat")
USERS = 100


def proportional_mb(process_ids: Iterable[int]) -> float:
    """MiB of some processes together."""
    return sum(kilobytes(process_id, "Pss:") for process_id in process_ids) / 1024


def unique_mb(process_ids: Iterable[int]) -> float:
    """MiB that each of them shares with nobody."""
    return sum(kilobytes(process_id, "Private_") for process_id in process_ids) / 1024


def kilobytes(process_id: int, name: str) -> int:
    """The sum of the lines of smaps_rollup (proc(5), Linux) that begin so; 0 for a process that has just ended."""
    try:
        lines = Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(name))


def sizes(stack: Deployment) -> dict[str, float]:
    """Proportional MiB of each kind of process."""
    return {name: proportional_mb(stack.process_ids(name)) for name in PROCESSES}


def main() -> None:
    """Print a row for each kind of process."""
    with service() as stack:
        idle = sizes(stack)
        calls = [prompt(person) for person in arrived(stack, USERS)]
        for _ in range(2):
            drive(calls)
            wait_until_idle(stack)
        after = sizes(stack)
        unique = {name: unique_mb(stack.process_ids(name)) for name in PROCESSES}
        counts = {name: len(stack.process_ids(name)) for name in PROCESSES}
    print("| | processes | idle | after 200 replies | of that unique |\n|---|---|---|---|---|")
    for name in PROCESSES:
        cells = [f"{part[name]:.0f} MB" for part in (idle, after, unique)]
        print(f"| {name} | {counts[name]} | {' | '.join(cells)} |")
    totals = [f"{sum(part.values()):.0f} MB" for part in (idle, after, unique)]
    print(f"| all | {sum(counts.values())} | {' | '.join(totals)} |")
