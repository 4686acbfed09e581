"""Whether two texts are one problem: for duplicates and for leaks."""
