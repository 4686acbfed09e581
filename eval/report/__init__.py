"""Writes a run's report as one HTML page: `python -m eval.report`."""
