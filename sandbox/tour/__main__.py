"""`python -m sandbox.tour`: runs the tour against BASE_URL, the running stack, or one that it starts itself."""

import os
import signal
import sys
import time
from types import FrameType

from sandbox.stack.deployment import reachable_api
from sandbox.stack.processes import StackError
from sandbox.tour.page import WIDTH, Page, wants_colour
from sandbox.tour.story import STORY, tell
from sandbox.tour.visitor import TourError, Visitor


def main() -> int:
    """Return 0 if every step came out as expected, or 1 after saying in a sentence what did not."""
    signal.signal(signal.SIGTERM, _leave)
    page = Page(colour=wants_colour(os.environ))
    try:
        with reachable_api(os.environ, page.say) as api:
            began = time.monotonic()
            page.say(f"A walk through the API\nAPI={api}")
            tell(STORY, Visitor(api, page))
            page.say(f"\n{'─' * WIDTH}\nAll {len(STORY)} chapters as expected, in {time.monotonic() - began:.1f} s.")
    except (TourError, StackError) as error:
        print(f"\n{error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)  # every `with` still ends, so no stack is left behind


if __name__ == "__main__":
    sys.exit(main())
