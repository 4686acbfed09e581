"""LEMMA: a student's own errors, and others like them, become rows that correct them."""
