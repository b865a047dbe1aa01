"""`make run`: databases, stand-ins, web, worker and beat on one machine, in the foreground."""
