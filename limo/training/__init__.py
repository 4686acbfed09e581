"""The parts of supervised and preference training."""
