"""Measures whether a choice helps: planted flaws, the probe, tournaments, control sets, and comparing teachers."""
