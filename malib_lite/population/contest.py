"""Contests between populations that were trained apart: who takes which seat, and what everybody gets.

Where the game can be solved, a population is the one policy that its mixture amounts to, and everything is exact.
Elsewhere episodes are played, with a member of each mixture drawn for each episode, in this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from malib_lite.backend.members import Member, MemberCache, MemberFolder
from malib_lite.config import ConfigError
from malib_lite.contracts.exact import ExactGame
from malib_lite.contracts.policy import check_parameters
from malib_lite.population.cross_play import Lineup
from malib_lite.population.exploitability import ExactEvaluator
from malib_lite.population.tabular_policy import check_playable
from malib_lite.rollout.books import Books
from malib_lite.rollout.inference.local import LocalInference
from malib_lite.rollout.pool import PoolPlayer
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.rollout.sampler import Sampler
from malib_lite.rollout.uniform_agents import make_uniform
from malib_lite.rollout.vector_env import vectorise


@dataclass(frozen=True)
class Table:
    """What the contest is about."""

    env_description: Mapping[str, Any]
    groups: Mapping[str, Sequence[str]]  # player -> its agents
    agent_ids: bool = False  # whether agents that share a policy are told who they are
    max_step: int | None = None


class Played(NamedTuple):
    """What the episodes of a lineup came to."""

    means: list[float]  # return of every player, the mean over its agents
    errors: list[float]  # standard errors, the largest of its agents'
    largest: float  # absolute return that any agent had in any of them
    placings: list[list[int]]  # of every player, [ahead, level, behind]: see Books


class Contestant:
    """A mixture of saved members for every player."""

    def __init__(
        self,
        name: str,
        pools: Mapping[str, Mapping[Member, float]],
        folder: MemberFolder,
        policies: Mapping[str, PolicySpec],
    ) -> None:
        """
        Args:
            pools: probability of each member, by player.
            folder: where the members lie.
            policies: how each kind of member is made.
        """
        self.name = name
        self.pools = {player: {m: p for m, p in pool.items() if p > 0.0} for player, pool in pools.items()}
        self.cache = MemberCache(folder, lambda kind: policies[kind].make(0))
        self._folder = folder
        self._policies = policies

    def load(self) -> None:
        """Read all members once, so that a damaged one is found before anything is played.

        How large their networks are, the configuration says: that they have what the files hold is seen before one is
        made.

        Raises:
            ValueError: a member is damaged, is no policy of its kind, or has a parameter that is not finite.
            FileNotFoundError: a member is missing.
        """
        members = {member for pool in self.pools.values() for member in pool}
        outlines = {kind: self._policies[kind].outline().state_dict() for kind in {member.kind for member in members}}
        for member in sorted(members):
            with _named(member):
                check_parameters(outlines[member.kind], self._folder.shapes(member.digest))
                for name, tensor in self.cache.get(member).state_dict().items():
                    if not tensor.isfinite().all():
                        raise ValueError(f"the parameter '{name}' is not finite")


def exact_contest(
    game: ExactGame, table: Table, contestants: Sequence[Contestant], lineups: Iterable[Lineup]
) -> tuple[dict[Lineup, tuple[list[float], list[float]]], list[float]]:
    """Returns of all players in each lineup, with errors of zero, and NashConv of each contestant.

    Args:
        game: its agents are the players' only ones, in their order.
    """
    policies = [_aggregated(game, table, contestant) for contestant in contestants]
    results = {}
    for lineup in lineups:
        pools = [policies[who][player][None] for player, who in enumerate(lineup)]
        results[lineup] = game.payoffs(pools).reshape(len(lineup)).tolist(), [0.0] * len(lineup)
    one = np.ones(1)
    nash_convs = [
        game.nash_conv([policy[None] for policy in of_players], [one] * len(of_players)) for of_players in policies
    ]
    return results, nash_convs


def sampled_contest(
    table: Table,
    contestants: Sequence[Contestant],
    lineups: Iterable[Lineup],
    num_episodes: int,
    num_envs: int,
    seed: int,
) -> dict[Lineup, Played]:
    """Play ``num_episodes`` of each lineup.

    Raises:
        ConfigError: a contestant has tables that cannot be played in these environments.
    """
    description = table.env_description
    root = np.random.SeedSequence(seed)
    vector = vectorise(description, min(num_envs, num_episodes), root.spawn(1)[0], table.max_step)
    environments = make_uniform(vector, table.groups, table.agent_ids)
    results = {}
    try:
        for contestant in contestants:
            for player, agents in table.groups.items():
                some = contestant.cache.get(next(iter(contestant.pools[player])))
                check_playable(dict.fromkeys(agents, some), environments)
        sampler = Sampler(environments, table.groups, LocalInference({}), 1, whole_episodes=True, placings=True)
        for lineup in lineups:
            generator = np.random.default_rng(np.random.SeedSequence([seed, *lineup]))
            players = {}
            for (player, agents), who in zip(table.groups.items(), lineup, strict=True):
                pool, cache = contestants[who].pools[player], contestants[who].cache
                members = {member: cache.get(member) for member in pool}
                for policy in members.values():
                    policy.seed(int(generator.integers(2**31)))
                players[player] = PoolPlayer(environments, agents, members.__getitem__, pool, generator.spawn(1)[0])
            sampler.use_pools(players)
            for _ in sampler.play_episodes(num_episodes):  # a task, though it never waits: nobody learns
                pass
            results[lineup] = _result(table, sampler.take_books())
    finally:
        environments.close()
    return results


@contextlib.contextmanager
def _named(member: Member) -> Iterator[None]:
    """Let what is wrong with a member say which one it is."""
    try:
        yield
    except ConfigError:  # which says it
        raise
    except ValueError as error:
        raise ValueError(f"{member}: {error}") from None


def _result(table: Table, books: Books) -> Played:
    means, errors = books.player_returns(table.groups)
    return Played(
        means=means,
        errors=errors,
        largest=max(abs(bound) for tally in books.returns.values() for bound in (tally.low, tally.high)),
        placings=[books.placings[player] for player in table.groups],
    )


def _aggregated(game: ExactGame, table: Table, contestant: Contestant) -> list[np.ndarray]:
    """The policy (I, A) of every player that is worth what its mixture is worth."""
    evaluator = ExactEvaluator(game)
    policies = []
    for player, (agent,) in table.groups.items():
        pool = contestant.pools[player]
        for member in pool:
            with _named(member):
                evaluator.add(agent, contestant.cache.get(member))
        policies.append(evaluator.aggregate(agent, np.array(list(pool.values()))))
    return policies
