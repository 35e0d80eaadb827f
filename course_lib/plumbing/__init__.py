"""Paths, files, progress, the machine: what carries the course and is not taught."""
