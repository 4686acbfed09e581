"""LEMMA: turns a student's errors, and planted errors like them, into rows that correct them."""
