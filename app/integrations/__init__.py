"""One module for each outside world: no database, exceptions of their own."""
