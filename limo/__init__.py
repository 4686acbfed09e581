"""Choose a few hundred reasoning chains, fine-tune on them, and say honestly whether that helped."""
