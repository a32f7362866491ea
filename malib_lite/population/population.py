"""The population: every player's pool, a mixture over it, and what every joint choice of members is worth."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from malib_lite.backend.members import Member
from malib_lite.contracts.policy import Policy
from malib_lite.population.exploitability import ExactEvaluator
from malib_lite.population.payoff_manager import PayoffManager
from malib_lite.population.strategy_spec import StrategySpec


class Objective(NamedTuple):
    """What a new policy of a player is to be good at."""

    opponents: Mapping[str, np.ndarray]  # by every other player: mixture (P,) that is to be answered
    start: Member | None = None  # from where learning goes on; None: a new network
    value: float = math.nan  # what the player earns against the opponents so far
    share: float = 1.0  # of all episodes: how probably these are the opponents


class Best(NamedTuple):
    """The mixtures of least NashConv that a population has had."""

    step: int  # iteration or generation
    nash_conv: float
    metric: str  # the name by which it is reported: what kind of mixture it is
    mixtures: dict[str, list[float]]  # by player, over the members that were there then, the oldest ones

    def summary(self) -> dict[str, Any]:
        """For ``summary.json``."""
        return {"iteration": self.step, "nash_conv": self.nash_conv, "metric": self.metric}


class Population:
    """Pools that grow. Members never change and never go; the mixtures over them do change.

    Where the game can be solved, ``exact`` knows the payoffs and how far the mixtures are from an equilibrium.
    """

    def __init__(
        self,
        players: Mapping[str, Sequence[str]],
        open_member: Callable[[Member], Policy],
        exact: ExactEvaluator | None = None,
    ) -> None:
        """
        Args:
            players: the agents of each player.
            open_member: the policy of a member.
            exact: with empty pools; for players of one agent each.
        """
        self.players = list(players)
        self.members: dict[str, list[Member]] = {player: [] for player in players}
        self.counts: dict[str, list[int]] = {player: [] for player in players}  # how often each member came
        self.strategies = {player: StrategySpec(player, (), {}) for player in players}
        self.payoffs = PayoffManager(self.players)
        self.exact = exact
        self.best: Best | None = None  # of what was judged
        self._agent = {player: agents[0] for player, agents in players.items()}
        self._open = open_member

    def copy(self) -> Population:
        """One that may grow apart from this one."""
        twin = copy.copy(self)
        twin.members = {player: list(members) for player, members in self.members.items()}
        twin.counts = {player: list(counts) for player, counts in self.counts.items()}
        twin.strategies, twin.payoffs = copy.deepcopy((self.strategies, self.payoffs))
        twin.exact = None if self.exact is None else self.exact.copy()
        return twin

    def add(self, player: str, member: Member) -> None:
        """Append a member, with probability 0, to a pool. One that is there already gets a second place."""
        strategy = self.strategies[player]
        strategy.register_policy_id(f"policy-{strategy.num_policy}")
        self.members[player].append(member)
        self.counts[player].append(1)
        if self.exact is not None:
            self.exact.add(self._agent[player], self._open(member))

    def count_again(self, player: str, member: Member) -> None:
        """Note that a member, the first one of its kind, came once more; its payoffs are known."""
        self.counts[player][self.members[player].index(member)] += 1

    def frequencies(self, player: str) -> np.ndarray:
        """How often each member (P,) came, as a distribution."""
        counts = np.array(self.counts[player], np.float64)
        return counts / counts.sum()

    def mix(self, player: str, probabilities: Sequence[float] | np.ndarray) -> None:
        """Set a mixture (P,)."""
        strategy = self.strategies[player]
        strategy.update_prob_list(dict(zip(strategy.policy_ids, map(float, probabilities), strict=True)))

    def mixture(self, player: str) -> np.ndarray:
        """A player's mixture (P,) float64; uniform until one is set."""
        return np.array(list(self.strategies[player].mixture.values()))

    def pools(self, mixtures: Mapping[str, np.ndarray]) -> dict[str, dict[Member, float]]:
        """The members that mixtures (P,) play, with their probabilities, by player."""
        pools: dict[str, dict[Member, float]] = {player: {} for player in mixtures}
        for player, pool in pools.items():
            for member, probability in zip(self.members[player], mixtures[player].tolist(), strict=True):
                if probability > 0.0:
                    pool[member] = pool.get(member, 0.0) + probability
        return pools

    def values(self) -> np.ndarray:
        """Expected return (N,) of every player under the mixtures."""
        return self.payoffs.values([self.mixture(player) for player in self.players])

    # -- where the game can be solved ---------------------------------------------------------------------------

    def nash_conv(self) -> float | None:
        """NashConv of the mixtures: the *sum* of what the players gain by best responses; None if it is not known."""
        return None if self.exact is None else self.exact.nash_conv(self.mixtures_by_agent())

    def judge(self, step: int, metric: str) -> dict[str, float]:
        """NashConv of the mixtures, under the name ``metric``; empty if it is not known. The best ones are kept."""
        nash_conv = self.nash_conv()
        if nash_conv is None:
            return {}
        if self.best is None or nash_conv < self.best.nash_conv:
            mixtures = {player: self.mixture(player).tolist() for player in self.players}
            self.best = Best(step, nash_conv, metric, mixtures)
        return {metric: nash_conv}

    def best_mixtures(self) -> dict[str, np.ndarray]:
        """The mixtures (P,) of :attr:`best`, with 0 for members that have come since."""
        assert self.best is not None
        sizes = {player: len(members) for player, members in self.members.items()}
        return {p: np.pad(mixture, (0, sizes[p] - len(mixture))) for p, mixture in self.best.mixtures.items()}

    def best_response(self, player: str, opponents: Mapping[str, np.ndarray]) -> tuple[float, np.ndarray]:
        """The best return against mixtures (P,) of the others, and a deterministic policy (I, A) that earns it."""
        assert self.exact is not None
        return self.exact.best_response(self._agent[player], self._by_agent(opponents))

    def exact_value(self, player: str, member: Member, opponents: Mapping[str, np.ndarray]) -> float:
        """What a player gets with a member, of its pool or not, against mixtures (P,) of the others."""
        assert self.exact is not None
        return self.exact.value(self._agent[player], self._open(member), self._by_agent(opponents))

    def exact_values(self) -> np.ndarray:
        """Expected return (N,) of every player under the mixtures."""
        assert self.exact is not None
        return self.exact.values(self.mixtures_by_agent())

    def mixtures_by_agent(self) -> dict[str, np.ndarray]:
        """The mixtures, under the names of the players' only agents."""
        return self._by_agent({player: self.mixture(player) for player in self.players})

    def _by_agent(self, mixtures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {self._agent[player]: mixture for player, mixture in mixtures.items()}

    # -- saving -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Who is in, and the mixtures; the payoffs are arrays and saved apart."""
        state = {
            "strategies": {player: strategy.state_dict() for player, strategy in self.strategies.items()},
            "members": {player: [str(member) for member in members] for player, members in self.members.items()},
        }
        return state if self.best is None else {**state, "best": self.best._asdict()}
