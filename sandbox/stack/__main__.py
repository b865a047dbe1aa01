"""`python -m sandbox.stack`: runs the whole stack in the foreground until Ctrl-C."""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from a Ctrl-C during the imports

from sandbox.stack.run import main  # noqa: E402

sys.exit(main())
