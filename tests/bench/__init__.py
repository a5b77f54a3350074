"""Benchmarks: floors, us and peers in one run. `make bench` runs `python -m tests.bench`."""
