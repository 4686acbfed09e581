"""From a pool of problems to a few hundred chains: stages, each a plain function from rows to rows."""
