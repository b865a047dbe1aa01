"""The two Gemini SDKs side by side, each in its own process: what the import, a call and a stream cost.

The stand-in answers at once. The 200 words of a stream come 5 ms apart, so that each is read by itself.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.client import CLIENTS, ModelClient, Turn, model_client_class
from sandbox.stand_ins import running_gemini_stand_in

BATCHES, TIMES = 4, 8
PIECE_SECONDS = 0.005
LONG_PIECES = " ".join(["x" * 204] * 20)  # 4 KB
TURNS = [Turn("user", "What is DNS?"), Turn("model", "A phone book of the internet. " * 20)]
LONG = f'[[sandbox: say="{LONG_PIECES}"]]'
WORDS = f"[[sandbox: pace={PIECE_SECONDS} words=200]]"
ROW = "{sdk:<22} {import_cpu:>10} {memory:>8} {whole:>10} {long:>12} {words:>12}"
HEADS = {
    "sdk": "GEMINI_SDK",
    "import_cpu": "import",
    "memory": "memory",
    "whole": "a call",
    "long": "20 pieces",
    "words": "200 pieces",
}


def cpu_of(work: Callable[[], object]) -> float:
    """Return the CPU milliseconds of doing the work once, in the batch that other processes disturbed least."""
    batches = []
    for _ in range(BATCHES):
        begun = time.process_time()
        for _ in range(TIMES):
            work()
        batches.append((time.process_time() - begun) / TIMES * 1000)
    return min(batches)


def ask(client: ModelClient, prompt: str, *, streamed: bool) -> None:
    with BoundedCall(30) as call:
        turns = [*TURNS, Turn("user", prompt)]
        client.generate(turns, call, read_seconds=30, on_piece=(lambda _: None) if streamed else None)


def measure(sdk: str, url: str) -> dict[str, str]:
    """Measure one row in this process: CPU of the import and of each kind of call, and the memory that it all took."""
    before, begun = psutil.Process().memory_info().rss, time.process_time()
    client = model_client_class(sdk)(api_key="sandbox", endpoint=url, model="gemini-3.5-flash", system_instruction="")
    import_cpu = time.process_time() - begun
    whole = cpu_of(lambda: ask(client, LONG, streamed=False))
    long = cpu_of(lambda: ask(client, LONG, streamed=True))
    words = cpu_of(lambda: ask(client, WORDS, streamed=True))
    memory = psutil.Process().memory_info().rss - before
    return {
        "sdk": sdk,
        "import_cpu": f"{import_cpu:.2f} s",
        "memory": f"{memory / 1e6:.0f} MB",
        "whole": f"{whole:.1f} ms",
        "long": f"{long:.1f} ms",
        "words": f"{words:.1f} ms",
    }


def main() -> None:
    print(f"CPU and memory of one process, for replies of 4 KB or 200 words.\n\n{ROW.format(**HEADS)}", flush=True)
    with running_gemini_stand_in() as gemini:
        for sdk in CLIENTS:
            command = [sys.executable, "-W", "ignore", "-m", "bench.adapters", sdk, gemini.url]
            row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(ROW.format(**row), flush=True)


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
