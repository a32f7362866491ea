"""A league: its learners, their frozen snapshots, whom each of them plays next, and what their games came to.

Nothing is trained or played here: the rules are in :mod:`malib_lite.population.league_rules`, and whoever trains tells
the league what the learners have become and how their games ended. A learner plays every seat of the game, with one
policy for each player, so its snapshot is a pool member for every player.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from malib_lite.backend.members import Member
from malib_lite.population.league_rules import (
    LeagueRules,
    match_probabilities,
    ready_for_snapshot,
    reset_probability,
)
from malib_lite.population.league_rules import Member as LeagueMember
from malib_lite.population.win_table import WinTable


class League:
    """Learners and snapshots in order of age. Snapshots never change and never go.

    While a generation is trained, ``policies`` of a learner are what it was when the generation began: that is what
    others meet of it.
    """

    def __init__(
        self, learners: Sequence[LeagueMember], first: Mapping[str, Mapping[str, Member]], rules: LeagueRules
    ) -> None:
        """
        Args:
            learners: those of the league, without snapshots.
            first: what each learner begins with, and starts anew from: a pool member by player.
        """
        self.rules = rules
        self.learners = {learner.id: learner for learner in learners}
        self.members = list(learners)
        self.policies = {name: dict(policies) for name, policies in first.items()}
        self.first = {name: dict(policies) for name, policies in first.items()}
        self.steps = dict.fromkeys(self.learners, 0)  # since each learner was frozen or began
        self.wins = WinTable(decay=0.99, prior_games=2.0)
        self.frozen_in: dict[str, int] = {}  # generation of each snapshot
        self.resets: list[tuple[int, str]] = []  # generation and learner

    def snapshots(self, parent: str | None = None, role: str | None = None) -> list[str]:
        """Ids of the snapshots, oldest first: all, or those of a learner, or of learners of a role."""
        return [
            member.id
            for member in self.members
            if member.parent is not None and parent in (None, member.parent) and role in (None, member.role)
        ]

    def opponents(self, learner: str) -> dict[str, float]:
        """How probably a learner plays each member of the league, by the rules and the games so far."""
        return match_probabilities(self.learners[learner], self.members, self.wins, self.rules)

    def pools(self, opponents: Mapping[str, float], player: str) -> dict[str, dict[Member, float]]:
        """What sits in the seats of the others, where a learner plays ``player``: their pools, by player."""
        pools: dict[str, dict[Member, float]] = {}
        for name, probability in opponents.items():
            for other, member in self.policies[name].items():
                if other != player:
                    pool = pools.setdefault(other, {})
                    pool[member] = pool.get(member, 0.0) + probability
        return pools

    def count(
        self, opponents: Mapping[str, Mapping[str, float]], scores: Iterable[tuple[str, Mapping[str, Sequence[int]]]]
    ) -> None:
        """Note the games of a generation.

        Members of the league that have the very same parameters (who was frozen a moment ago, and its snapshot) have
        their games shared out among them, in proportion to how probably each was met. Games against itself say nothing.

        Args:
            opponents: whom each learner met, and how probably.
            scores: for every seat of every learner, the learner and its [wins, draws, losses] by pool member, as text.
        """
        games: dict[tuple[str, str], np.ndarray] = {}
        for learner, of_seat in scores:
            for text, counts in of_seat.items():
                met = {
                    name: probability
                    for name, probability in opponents[learner].items()
                    if text in map(str, self.policies[name].values())
                }
                for name, probability in met.items():
                    share = np.array(counts) * probability / sum(met.values())
                    home, away = min(learner, name), max(learner, name)
                    games[home, away] = games.get((home, away), 0.0) + (share if home == learner else share[::-1])
        for (home, away), (wins, draws, losses) in games.items():  # in one go: none of them fades another
            if home != away:
                self.wins.record(home, away, wins=float(wins), draws=float(draws), losses=float(losses))

    def advance(self, learner: str, policies: Mapping[str, Member], num_steps: int) -> None:
        """A learner has trained for ``num_steps`` environment steps and is now this."""
        self.policies[learner] = dict(policies)
        self.steps[learner] += num_steps

    def ready(self) -> list[str]:
        """The learners that are to be frozen now."""
        return [
            name
            for name, learner in self.learners.items()
            if ready_for_snapshot(learner, self.members, self.wins, self.rules, num_steps=self.steps[name])
        ]

    def freeze(self, learner: str, generation: int) -> str:
        """Add a snapshot of what a learner is; returns its id."""
        name = f"{learner}@{generation}"
        self.members.append(LeagueMember(name, self.learners[learner].role, learner))
        self.policies[name] = dict(self.policies[learner])
        self.frozen_in[name] = generation
        self.steps[learner] = 0
        return name

    def draw_reset(self, learner: str, generator: np.random.Generator) -> bool:
        """Whether a learner that was just frozen starts anew."""
        return bool(generator.random() < reset_probability(self.learners[learner].role, self.rules))

    def reset(self, learner: str, generation: int) -> dict[str, Member]:
        """Have a learner start anew: nothing is known of its games; returns what it starts from, by player."""
        self.wins.forget(learner)
        self.steps[learner] = 0
        self.policies[learner] = dict(self.first[learner])
        self.resets.append((generation, learner))
        return self.policies[learner]

    def state_dict(self) -> dict[str, Any]:
        """Everybody, and the games, in a form for JSON."""
        return {
            "members": [
                {
                    "id": member.id,
                    "role": member.role,
                    "parent": member.parent,
                    "generation": self.frozen_in.get(member.id),
                    "steps": self.steps.get(member.id),
                    "policies": {player: str(policy) for player, policy in self.policies[member.id].items()},
                }
                for member in self.members
            ],
            "first": {
                name: {player: str(policy) for player, policy in policies.items()}
                for name, policies in self.first.items()
            },
            "resets": [list(reset) for reset in self.resets],
            "wins": self.wins.state_dict(),
        }
