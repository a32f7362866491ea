"""Pools of policies, payoff tables, meta-solvers, and how far from equilibrium they are."""
