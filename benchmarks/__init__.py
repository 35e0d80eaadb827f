"""How fast the course's own code is, beside what it replaces: `python -m benchmarks`."""
