"""How PSRO may be configured, and which options do not go together, whatever the game is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from malib_lite.config import (
    ConfigError,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFew,
    PositiveInt,
    config,
    option,
    suggest,
)
from malib_lite.population.alpha_rank import MAX_JOINT_PROFILES
from malib_lite.population.correlated import JOINT_PROFILE_LIMITS, JOINT_SOLVERS
from malib_lite.population.meta_solvers import META_SOLVERS
from malib_lite.scenarios.population_scenario import PopulationConfig

# Meta-solvers that ask for a best response for each member of a player that is played.
ASK_FOR_SEVERAL = ("rectified_nash", *(name for name in JOINT_SOLVERS if name.endswith("_ce")))

# Joint choices of members up to which there is a meta-solver's answer, or memory for their payoffs: for those a few GB.
PROFILE_LIMITS = {**JOINT_PROFILE_LIMITS, "alpha_rank": MAX_JOINT_PROFILES}
MAX_PAYOFFS = 10_000_000


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
    pipeline: PositiveFew = option(
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


def most_joint_choices(meta_solver: object) -> int:
    """How many joint choices of members a population may have, for a meta-solver and for the table of payoffs."""
    return PROFILE_LIMITS.get(meta_solver, MAX_PAYOFFS) if isinstance(meta_solver, str) else MAX_PAYOFFS


def check_size(psro: PSROConfig, num_policies: Sequence[float]) -> None:
    """That populations of ``max_iteration`` iterations are not too large, as far as that is known beforehand.

    Args:
        num_policies: how many policies each player can have at most; infinity where they are learnt.

    Raises:
        ConfigError: they are.
    """
    most, per_iteration = most_joint_choices(psro.meta_solver), psro.max_responses or 1

    def joint_choices(iterations: int) -> float:
        # Levels of a pipeline that stand above others meet these, too.
        members = 1 + per_iteration * iterations + psro.pipeline - 1
        return math.prod(min(members, number) for number in num_policies)

    if joint_choices(psro.max_iteration) <= most:
        return
    fitting = next((n for n in range(psro.max_iteration - 1, 0, -1) if joint_choices(n) <= most), None)
    what = f"the meta-solver '{psro.meta_solver}'" if psro.meta_solver in PROFILE_LIMITS else "the table of payoffs"
    advice = "choose fewer players" if fitting is None else f"choose at most {fitting}"
    if psro.meta_solver in PROFILE_LIMITS:
        advice += ", or the meta-solver prd" if psro.meta_solver == "alpha_rank" else ", or max_welfare_cce"
    raise ConfigError(
        f"'psro.max_iteration' = {psro.max_iteration}: {len(num_policies)} players then have up to "
        f"{int(joint_choices(psro.max_iteration)):,} joint choices of members, and {what} takes {most:,}; {advice}"
    )
