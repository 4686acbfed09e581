"""Decides whether two texts are the same problem: for duplicates and for leaks."""
