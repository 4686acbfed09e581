"""RISE: several turns per problem, and iterations on a model's answers."""
