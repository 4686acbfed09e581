"""Does a choice help? Planted flaws, the probe, tournaments, control sets, and which teacher suits a student."""
