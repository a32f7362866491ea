"""Processes and what belongs to a run: start, supervision, shared memory, seeds, metrics, folders, plots."""
