"""Runs a command with a stack of its own; `{address}` in its arguments becomes the stack's address.

python -m ci.with_stack curl {address}/healthz
"""

import os
import subprocess
import sys

from sandbox.tour.own_stack import own_stack


def main() -> int:
    with own_stack(os.environ) as address:
        command = [argument.replace("{address}", address) for argument in sys.argv[1:]]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
