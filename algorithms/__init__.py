"""Reinforcement-learning algorithms, one each; imported as ``malib_lite.algorithms``."""
