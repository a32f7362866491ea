"""What the scenarios share that grow a population of best responses: oracles, payoffs, judgement, saving."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from malib_lite.backend.members import Member, MemberCache
from malib_lite.config import ConfigError, PositiveFloat, PositiveInt, config, option, to_dict
from malib_lite.contracts.exact import ExactGame
from malib_lite.population.exploitability import ExactEvaluator, exact_game
from malib_lite.population.meta_solvers import is_constant_sum
from malib_lite.population.payoff_manager import JointChoice
from malib_lite.population.population import Objective, Population
from malib_lite.population.tabular_policy import TabularPolicy, check_playable
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.rollout.uniform_agents import make_uniform
from malib_lite.rollout.vector_env import vectorise
from malib_lite.scenarios.oracles import ExactOracle, LearntOracle, Oracle, Responses
from malib_lite.scenarios.run import Run
from malib_lite.scenarios.scenario import Scenario
from malib_lite.scenarios.training import Budget

ROUNDING = 1e-9  # gains of exact best responses below this, as a part of the largest return, are rounding


@config
class PopulationConfig:
    """How best responses are found and what is to be known of them."""

    oracle: Literal["learnt", "exact"] = option(
        "learnt", "where best responses come from: the trainers, or, of games that can be solved, their computation"
    )
    symmetric: bool = option(False, "one population for all players, of games in which their roles are the same")
    payoffs: Literal["auto", "exact", "sampled"] = option("auto", "payoffs between members; auto: exact where possible")
    payoff_episodes: PositiveInt = option(1000, "episodes per entry of the payoff table, where it is not exact")
    payoff_error: PositiveFloat | None = option(
        None, "an entry is sampled again as long as its standard error is above this; None: once is enough"
    )
    payoff_max_episodes: PositiveInt = option(100_000, "but never with more episodes than about these")
    final_response_steps: PositiveInt | None = option(
        None,
        "train best responses to the final mixtures for so many steps; their gains are a lower bound of NashConv",
    )


class PopulationScenario(Scenario):
    """Players with growing pools, an oracle that gives them new members, and what these are worth."""

    rollout_defaults = {"fragment_length": 4096, "num_env_per_thread": 256, "batch_mode": "episode"}
    trains_best_responses = True
    default_steps = 30_000
    population: Population  # of the run that is under way or over

    def __init__(self, population_config: PopulationConfig, section: str, *args: Any, **kwargs: Any) -> None:
        """
        Args:
            population_config: what the subclass's configuration says of this, or what holds always there.
            section: the name of the subclass's configuration.

        The other arguments are those of :class:`~malib_lite.scenarios.scenario.Scenario`.
        """
        self._settings, self._section = population_config, section
        super().__init__(*args, **kwargs)
        self.players = list(self.groups)
        self.learners = self.players[:1] if population_config.symmetric else self.players
        if len(self.players) < 2:
            raise ConfigError(
                f"{section} needs at least two players; this environment's agents make up {len(self.players)} "
                f"({', '.join(self.players)}); try the marl scenario"
            )
        if self.stopping.rollout.minimum_reward_improvement is not None:
            raise ConfigError(
                "'stopping.rollout.minimum_reward_improvement' is for the marl scenario: best responses are not "
                "evaluated while they learn; limit them by trainer.total_timesteps or stopping.rollout.max_iteration"
            )
        if "exact" in (population_config.oracle, population_config.payoffs):
            self._check_exact(self._exact_demand())
        if population_config.symmetric:
            self._check_symmetric()
        if population_config.oracle == "exact":
            self._make_tabular()

    def make_seats(self) -> dict[str, str]:
        if self._settings.oracle == "exact":
            return {}
        seats = super().make_seats()
        return dict(list(seats.items())[:1]) if self._settings.symmetric else seats

    @property
    def plays(self) -> bool:
        return self._settings.oracle == "learnt" or self._settings.payoffs == "sampled"

    def arenas(self) -> list[list[str]]:
        return [[runtime_id] for runtime_id in self.seats]

    def resolved_config(self) -> dict[str, Any]:
        section = to_dict(self._settings)
        if section["payoffs"] == "auto":
            section["payoffs"] = "sampled" if self._exact_game() is None else "exact"
        return {**super().resolved_config(), self._section: section}

    # -- for subclasses -----------------------------------------------------------------------------------------

    def _begin(self, run: Run) -> Oracle:
        """Empty pools, and the oracle that fills them."""
        game = self._exact_game()
        exact = None if game is None else ExactEvaluator(game)
        cache = MemberCache(run.members, lambda kind: self.policies[kind].make(0))
        self.population = Population(self.groups, cache.get, exact)
        self._payoff_files: list[str] = []  # in the order in which they were written
        if self._settings.oracle == "learnt":
            return self._learnt_oracle(run)
        assert exact is not None
        return ExactOracle(exact, self._only_agents(), run.members)

    def _learnt_oracle(self, run: Run) -> Oracle:
        return LearntOracle(run, self._budget(self.total_steps))

    def _admit(self, members: Mapping[str, Member], population: Population | None = None) -> None:
        """Add members to their players' pools; to all pools where the population is one. None: the run's."""
        for learner, member in members.items():
            for player in self.players if self._settings.symmetric else [learner]:
                (population or self.population).add(player, member)

    def _fill_in_payoffs(self, run: Run, population: Population | None = None) -> None:
        """Find out what every joint choice is worth that is not in the table yet. None: the run's population."""
        population = population or self.population
        payoffs = population.payoffs
        payoffs.expand([len(population.members[player]) for player in self.players])
        if population.exact is not None and self._settings.payoffs != "sampled":
            payoffs.record_exact(population.exact.payoffs())
            return
        missing = payoffs.missing()
        if self._settings.symmetric:
            missing = [choice for choice in missing if list(choice) == sorted(choice)]
        matches = [
            {player: {population.members[player][i]: 1.0} for player, i in zip(self.players, choice, strict=True)}
            for choice in missing
        ]
        for choice, (means, errors) in zip(missing, self._sample(run, matches), strict=True):
            for order in self._orders(choice):  # player k gets what player order[k] gets in the game that was played
                payoffs.record(tuple(choice[i] for i in order), [means[i] for i in order], [errors[i] for i in order])

    def _orders(self, choice: JointChoice) -> list[tuple[int, ...]]:
        """In which ways players may change seats with the same members at play; one for each joint choice."""
        own = tuple(range(len(choice)))
        if not self._settings.symmetric:
            return [own]
        orders = {tuple(choice[i] for i in order): order for order in itertools.permutations(own)}
        return list(orders.values())

    def _sample(self, run: Run, matches: list[dict[str, dict[Member, float]]]) -> list[tuple[list[float], list[float]]]:
        """Every player's mean return in each match, and the standard errors."""
        settings, results = self._settings, run.rollout.simulate(matches, self._settings.payoff_episodes)
        bound = np.inf if settings.payoff_error is None else settings.payoff_error
        while True:
            sampled = [books.player_returns(self.groups) for books in results]
            again = [
                number
                for number, ((_, errors), books) in enumerate(zip(sampled, results, strict=True))
                if max(errors) > bound and books.length.count < settings.payoff_max_episodes
            ]
            if not again:
                break
            more = run.rollout.simulate([matches[number] for number in again], settings.payoff_episodes)
            for number, books in zip(again, more, strict=True):
                results[number].merge(books)
        for books in results:
            run.count_crashes(books)
        return sampled

    def _objectives(self, values: Sequence[float] | None = None) -> dict[str, Objective]:
        """To answer the others' mixtures, for every player.

        Args:
            values: what the mixtures are worth to each player, where it matters what is gained.
        """
        mixtures = {player: self.population.mixture(player) for player in self.players}
        objectives = {}
        for player, value in zip(self.players, values or [np.nan] * len(self.players), strict=True):
            others = {other: mixture for other, mixture in mixtures.items() if other != player}
            objectives[player] = Objective(others, value=value)
        return objectives

    def _gains(self, run: Run, responses: Responses, objectives: Mapping[str, Objective]) -> dict[str, float]:
        """What each player gains by its response, over what it earned against the objective's opponents before."""
        population, members, values = self.population, responses.members, responses.values
        if not values and population.exact is not None and self._settings.payoffs != "sampled":
            values = {p: population.exact_value(p, member, objectives[p].opponents) for p, member in members.items()}
        elif not values:
            pools = {player: population.pools(objectives[player].opponents) for player in members}
            sampled = self._sample(run, [{player: {m: 1.0}, **pools[player]} for player, m in members.items()])
            values = {p: means[self.players.index(p)] for p, (means, _) in zip(members, sampled, strict=True)}
        return {player: value - objectives[player].value for player, value in values.items()}

    def _values(self, run: Run) -> list[float]:
        """What the mixtures are worth to every player."""
        population = self.population
        if population.payoffs.sizes == tuple(len(members) for members in population.members.values()):
            return population.values().tolist()
        if population.exact is not None and self._settings.payoffs != "sampled":
            return population.exact_values().tolist()
        mixtures = {player: population.mixture(player) for player in self.players}
        return self._sample(run, [population.pools(mixtures)])[0][0]

    def _lower_bound(self, run: Run, iteration: int) -> dict[str, float]:
        """What best responses that are trained against the final mixtures gain, in episodes of their own; reported."""
        steps = self._settings.final_response_steps
        if steps is None:
            return {}
        objectives = self._objectives(self._values(run))
        responses = LearntOracle(run, self._budget(steps)).respond(self.population, objectives)
        gains = self._gains(run, responses, objectives)
        bound = {"nash_conv_lower_bound": sum(max(0.0, gain) for gain in gains.values())}
        run.report(iteration, bound)
        return bound

    def _best(self) -> dict[str, float]:
        """The least NashConv so far, for the metrics; empty if none is known."""
        best = self.population.best
        return {} if best is None else {"nash_conv_best": best.nash_conv}

    def _result(self, values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """For ``summary.json``: those of ``names`` that the last report has, and the best mixtures beside the last."""
        result = {name: values[name] for name in names if name in values}
        best = self.population.best
        return result if best is None else {**result, "best": best.summary()}

    def _save(self, run: Run, iteration: int) -> None:
        """The population and its payoffs, so that a reader always finds both of one iteration.

        Payoffs are written once, in a file for each iteration that brought some.
        """
        new = self.population.payoffs.take_new()
        if len(new["choices"]):
            self._payoff_files.append(f"payoffs-{iteration}.safetensors")
            run.folder.write_arrays(f"checkpoints/{self._payoff_files[-1]}", new)
        state = {"iteration": iteration, **self.population.state_dict(), "payoffs": self._payoff_files}
        run.checkpoint(state, indent=None)

    # -- inside -------------------------------------------------------------------------------------------------

    def _budget(self, steps: int) -> Budget:
        return Budget(steps, self.stopping.rollout.max_iteration, self.stopping.training.max_iteration)

    def _exact_game(self) -> ExactGame | None:
        """The game's exact form, where there is one and it is wanted."""
        if self._settings.payoffs == "sampled" and self._settings.oracle == "learnt":
            return None
        return exact_game(self.env_description, self.groups, self.policies.values())

    def _only_agents(self) -> dict[str, str]:
        """By player who learns, where each is one agent."""
        return {player: self.groups[player][0] for player in self.learners}

    def _check_exact(self, option: str) -> None:
        """The game can be solved, as ``option`` asks for."""
        if self._exact_game() is None:
            raise ConfigError(
                f"{option}: only for small games in which no player forgets anything, with one agent per player and "
                "policies without memory; "
                f"the environment offers no exact form here{_exact_for(self.env_description['creator'])}"
            )

    def _exact_demand(self) -> str:
        """What asks for the game's exact form, for messages."""
        return f"'{self._section}.{'oracle' if self._settings.oracle == 'exact' else 'payoffs'}' = 'exact'"

    def _check_constant_sum(self, option: str) -> None:
        """Two players; and where the game can be solved, whoever plays it, their payoffs add up to a constant."""
        game = exact_game(self.env_description, self.groups, [])
        if len(self.players) == 2 and (game is None or is_constant_sum(random_payoffs(game))):
            return
        has = "payoffs that do not add up to a constant" if len(self.players) == 2 else f"{len(self.players)} players"
        raise ConfigError(
            f"{option} is for two-player zero-sum games, this one has {has}; try prd, fictitious_play or alpha_rank"
        )

    def _check_symmetric(self) -> None:
        """All players see and may do the same, and what a joint choice pays does not depend on who sits where."""
        game = self._exact_game()
        if game is None:
            raise ConfigError(
                f"'{self._section}.symmetric': this game's symmetry cannot be checked, as it has no exact form; leave "
                "the option out, and every player has a population of its own"
            )
        seen = [game.information_sets(agent) for agent in game.agents]
        alike = all(np.array_equal(of, first) for sets in seen[1:] for of, first in zip(sets, seen[0], strict=True))
        if not alike or not _pays_alike(game):
            raise ConfigError(
                f"'{self._section}.symmetric': this game is not symmetric, its players "
                f"{'have payoffs of their own' if alike else 'see or may do different things'}; leave the option out"
            )

    def _make_tabular(self) -> None:
        """The players' policies are tables."""
        game = self._exact_game()
        assert game is not None
        for player, (agent,) in self.groups.items():
            observation_space, action_space = self.spaces(agent)
            observations = {"observations": game.information_sets(agent)[0]}
            self.policies[player] = PolicySpec(TabularPolicy, observation_space, action_space, {}, observations)
        if self.plays:
            self._check_tables()

    def _check_tables(self) -> None:
        """The tables can be played, as sampled payoffs ask for."""
        agents = {agent: self.policies[player] for player, (agent,) in self.groups.items()}
        if self.rollout.use_subproc_env:
            check_playable(agents)
            return
        vector = vectorise(self.env_description, 1, 0, self.rollout.max_step)
        environments = make_uniform(vector, self.groups, self.rollout.agent_ids)
        try:
            check_playable(agents, environments)
        finally:
            environments.close()


def _pays_alike(game: ExactGame) -> bool:
    """Whether players who change seats change payoffs with them, tried out with a few random policies."""
    payoffs = random_payoffs(game)
    for player in range(1, len(game.agents)):
        order = list(range(len(game.agents)))
        order[0], order[player] = player, 0
        if not np.allclose(payoffs, payoffs.transpose(0, *(1 + i for i in order))[order], atol=1e-9):
            return False
    return True


def random_payoffs(game: ExactGame) -> np.ndarray:
    """Payoffs (N, 3, ..., 3) of three random policies of each player; the same ones where the players are alike."""
    pools = []
    for agent in game.agents:
        legal = game.information_sets(agent)[1]
        random = np.random.default_rng(0).random((3, *legal.shape)) * legal
        pools.append(random / random.sum(axis=-1, keepdims=True))
    return game.payoffs(pools)


def _exact_for(creator: Any) -> str:
    """The end of a message: which of its games an environment can solve, where it says so."""
    limits = getattr(creator, "exact_for", "")
    return f", which it has for {limits}" if limits else ""
