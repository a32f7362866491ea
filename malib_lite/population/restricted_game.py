"""Extensive-form double oracle: McAleer et al. 2021, XDO, https://arxiv.org/abs/2103.06426.

    allowed = the actions of one policy per player
    repeat
        policies = an equilibrium of the game with the allowed actions alone
        for every player: allow what a best response to the others' policies does

Where PSRO mixes whole policies, this one mixes actions at every information set. Each round allows at least one action
more, as long as somebody gains by deviating; so there are at most as many rounds as actions to allow, where PSRO may
need a member for every deterministic policy.

Deviation: the paper approaches the restricted game's equilibrium by regret minimisation, up to a tolerance that is
tightened on the way; here a linear program solves it exactly, as in Bosansky et al. 2014, An exact double-oracle
algorithm for zero-sum extensive-form games with imperfect information.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from malib_lite.contracts.exact import ExactGame


class RestrictedGame:
    """A game in which every agent may take only the actions that some policy of its population takes."""

    def __init__(self, game: ExactGame, policies: Mapping[str, np.ndarray]) -> None:
        """
        Args:
            policies: the first policy (I, A) of every agent. Deterministic ones leave the most to find out; a uniform
                one allows everything at once.
        """
        self.game = game
        self.allowed: dict[str, np.ndarray] = {agent: policies[agent] > 0.0 for agent in game.agents}  # (I, A) bool

    def allow(self, agent: str, policy: np.ndarray) -> int:
        """Allow what a policy (I, A) does; returns how many information sets have a new action by that."""
        new = (policy > 0.0) & ~self.allowed[agent]
        self.allowed[agent] |= new
        return int(new.any(axis=1).sum())

    def equilibrium(self) -> dict[str, np.ndarray]:
        """A policy (I, A) for every agent, from which none gains by deviating within the restricted game.

        Raises:
            ConfigError: the game's restrictions are not solved; see :meth:`ExactGame.restricted_equilibrium`.
        """
        policies = self.game.restricted_equilibrium([self.allowed[agent] for agent in self.game.agents])
        return dict(zip(self.game.agents, policies, strict=True))
