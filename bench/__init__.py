"""Speed measurements: `make bench`. The latest results are in bench/results.md."""
