"""Discovering losses of preference training: DiscoPOP (arXiv 2406.08414)."""
