"""Time and memory, each measured beside a reference; `python -m benchmarks` (or `make bench`) prints the table."""
