"""RISE: several turns at a problem, and iterations on what a model answers itself."""
