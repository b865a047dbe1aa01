"""What measures speed: `make bench`, with the last results in bench/results.md."""
