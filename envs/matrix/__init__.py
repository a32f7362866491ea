"""Matrix and Markov games, given as payoffs: those of the literature by name, and one's own."""

from malib_lite.envs.matrix.exact import OneRoundGame
from malib_lite.envs.matrix.games import GAMES
from malib_lite.envs.matrix.matrix_game import MatrixGame, env_desc_gen, env_ids
from malib_lite.envs.matrix.matrix_vector import MatrixVector
from malib_lite.envs.matrix.spec import GameSpec, GameTables

__all__ = ["GAMES", "GameSpec", "GameTables", "MatrixGame", "MatrixVector", "OneRoundGame", "env_desc_gen", "env_ids"]
