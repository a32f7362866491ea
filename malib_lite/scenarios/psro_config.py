"""How PSRO may be configured, and which options do not go together, whatever the game is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from malib_lite.config import (
    ConfigError,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    config,
    option,
    suggest,
)
from malib_lite.population.correlated import JOINT_SOLVERS
from malib_lite.population.meta_solvers import META_SOLVERS
from malib_lite.scenarios.population_scenario import PopulationConfig

# Meta-solvers that ask for a best response for each member of a player that is played.
ASK_FOR_SEVERAL = ("rectified_nash", *(name for name in JOINT_SOLVERS if name.endswith("_ce")))


@config
class PSROConfig(PopulationConfig):
    """The outer loop; ``global_stopping_conditions`` of MALib's documents holds ``max_iteration`` alone."""

    max_iteration: PositiveInt = option(12, "how often best responses are added for every player")
    meta_solver: str | Callable[[np.ndarray], list[np.ndarray]] = option(
        "auto",
        f"{', '.join(META_SOLVERS)}, rectified_nash or anytime (these and nash: two players, zero-sum; "
        "anytime: games that can be solved); joint, of two players: "
        f"{', '.join(JOINT_SOLVERS)}; package.module:NAME, a function of your own; auto: nash where it can be, prd "
        "elsewhere",
    )
    max_responses: PositiveInt | None = option(
        None,
        f"best responses added for a player at a time, where several are asked for ({', '.join(ASK_FOR_SEVERAL)}): "
        "those of the members that are played most; None: all",
    )
    warm_start: Literal["none", "latest", "best"] = option(
        "none", "what a best response starts from: a new network, the latest one, or the best against its opponents"
    )
    min_gain: NonNegativeFloat | None = option(
        None,
        "best responses that gain no more are kept out; None: all are added, but for exact ones of no use",
    )
    second_chances: NonNegativeInt = option(0, "how often those that gain too little are trained on before")
    pipeline: PositiveInt = option(
        1, "policies of each player that learn at the same time, each against the population and those below it (P2SRO)"
    )
    target: NonNegativeFloat | None = option(None, "NashConv at which the run is over")

    def __post_init__(self) -> None:
        solver = self.meta_solver
        names = ("auto", "rectified_nash", "anytime", *META_SOLVERS, *JOINT_SOLVERS)
        if isinstance(solver, str) and solver not in names and ":" not in solver:
            raise ConfigError(f"'psro.meta_solver' = '{solver}': {suggest(solver, names)}")
        if self.max_responses is not None and solver not in ASK_FOR_SEVERAL:
            raise ConfigError(
                f"'psro.max_responses' = {self.max_responses}: meta-solver {solver!r} asks for one best response of "
                f"each player; those that ask for several are {', '.join(ASK_FOR_SEVERAL)}; leave the option out"
            )
        if solver == "anytime" and self.payoffs == "sampled":
            raise ConfigError("'psro.payoffs' = 'sampled': the meta-solver 'anytime' knows the game; leave it out")
        if solver == "rectified_nash" and self.warm_start != "none":
            raise ConfigError(
                f"'psro.warm_start' = '{self.warm_start}': with rectified_nash every best response starts from a "
                "member of its own; leave the option out"
            )
        if self.pipeline > 1:
            self._check_pipeline()

    def _check_pipeline(self) -> None:
        name, solver = f"'psro.pipeline' = {self.pipeline}", self.meta_solver
        if self.oracle == "exact":
            raise ConfigError(f"{name}: best responses of 'psro.oracle' = 'exact' do not learn; leave it out")
        if solver in ("anytime", "rectified_nash", *JOINT_SOLVERS):
            raise ConfigError(
                f"{name}: levels have mixtures of their own, which '{solver}' cannot give; choose a meta-solver of "
                f"{', '.join(META_SOLVERS)}"
            )
        if self.warm_start != "none":
            raise ConfigError(
                f"{name} does not go with 'psro.warm_start' = '{self.warm_start}': all learn from scratch"
            )
        if self.final_response_steps is not None:
            raise ConfigError(f"{name} does not go with 'psro.final_response_steps'; leave one of them out")
