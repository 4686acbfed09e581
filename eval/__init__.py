"""Grading, benchmarks, evaluation runs, comparisons and reports."""
