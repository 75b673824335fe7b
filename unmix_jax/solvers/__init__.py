"""How much of each? Solvers of one pixel."""
