"""A run as one HTML page: `python -m eval.report`."""
