"""A test of environments: does it keep the contract, and if not, what is wrong?"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import numpy as np
from gymnasium import spaces

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import AgentID, Environment, TimeStep
from malib_lite.environments import Creator, describe_environment
from malib_lite.envs.check_step import StepRules, same
from malib_lite.envs.wrappers import Wrapper
from malib_lite.models.actions import ActionReader, array_action_space
from malib_lite.models.preprocessor import array_space

_LONGEST = 10_000  # steps after which an episode is said never to end
_REPEATS = 20  # episodes that must all be alike before they are called a replay: chance may well repeat itself once
_REPEATS_S = 5.0  # seconds for these
_SLOW_S = 0.02  # seconds of a step that are worth a note

Episode = list[tuple[Any, ...]]  # copies of each step's fields but the infos


class EnvCheckError(ValueError):
    """An environment breaks its contract; ``violations`` holds a sentence for each way."""

    def __init__(self, name: str, violations: list[str]) -> None:
        super().__init__(f"{name} breaks the contract of environments:\n" + "\n".join(f"- {v}" for v in violations))
        self.violations = violations


class _Stop(Exception):
    """It makes no sense to look further."""


def check_env(
    env: Any,
    num_episodes: int = 3,
    seed: int = 0,
    *,
    config: Mapping[str, Any] | None = None,
    max_step: int | None = None,
) -> list[str]:
    """Play an environment with random legal actions, and say in sentences what is wrong with it.

    Looked at are names, types, shapes, bounds, masks, flags and final observations of every step; that episodes end;
    that a seed gives the same episodes again and no seed new ones; that nothing returned is changed afterwards; that
    the environment can be made anew, sent to other processes, resumed (where it has a ``state_dict``) and closed.

    Args:
        env: a subclass of :class:`Environment`, or whatever else ``--env`` takes (a function, ``"FAMILY/NAME"``,
            ``"package.module:NAME"``, an object of PettingZoo or Gymnasium); or an environment itself, which is played
            and left open.
        num_episodes: how many are played for the first time; most are played once more.
        seed: of the environment and the actions.
        config: keyword arguments of the environment, where ``env`` makes one.
        max_step: the rollout's time limit, for environments that do not end by themselves.

    Returns:
        Notes: sentences about what is allowed, but may not be meant.

    Raises:
        EnvCheckError: there are violations; every one is listed, the first time it was seen.
        ConfigError: there is no such environment, or it refuses its configuration.
    """
    return _Check(env, dict(config or {}), num_episodes, seed, max_step).run()


class _Check:
    """What is known of one environment so far."""

    def __init__(self, env: Any, config: dict[str, Any], num_episodes: int, seed: int, max_step: int | None) -> None:
        self.num_episodes, self.seed = num_episodes, seed
        self.max_step, self.limit = max_step, _LONGEST if max_step is None else max_step
        self.violations: dict[str, str] = {}  # by their kinds
        self.notes: list[str] = []
        self.where = ""  # what is being done
        self.given = env if isinstance(env, Environment) else None
        if self.given is not None and config:
            raise ConfigError("'config': the environment is made already; give its class instead")
        if isinstance(env, (str, Mapping)):
            described = describe_environment(env, config)
            env, config = described["creator"], dict(described["config"])
        is_class = isinstance(env, type) and issubclass(env, Environment)
        self.creator: Callable[..., Environment] = env if is_class or isinstance(env, Creator) else Creator(env)
        self.config = config
        self.name = getattr(env, "__name__", None) or type(env).__name__

    def run(self) -> list[str]:
        """Look at everything."""
        made: list[Environment] = []
        try:
            env = self.given
            if env is None:
                env = self.make()
                made.append(env)
            self.check_spaces(env)
            self.check_copies(env)
            rules = StepRules(env.observation_spaces, env.action_spaces, self.report)
            before = self.spaces_of(env)
            started = time.perf_counter()
            episodes = self.play(env, rules)
            step_s = (time.perf_counter() - started) / max(1, sum(len(episode) - 1 for episode in episodes))
            if step_s > _SLOW_S:
                self.notes.append(f"a step takes {1000 * step_s:.0f} ms on average; rollout.use_subproc_env may help")
            if self.spaces_of(env) != before:
                self.report("spaces", "agents or spaces changed while the environment was played: they must stay")
            twin = self.make_twin(env)
            made.append(twin)
            self.check_chance(env, twin, episodes)
            self.check_resumption(env, twin)
        except _Stop:
            pass
        finally:
            for env in made:
                self.where = ""
                self.attempt("close", "'close' failed", env.close)
        if self.violations:
            raise EnvCheckError(self.name, list(self.violations.values()))
        return self.notes

    def report(self, kind: str, sentence: str) -> None:
        """Note a violation, unless there was one of its kind."""
        self.violations.setdefault(kind, f"{sentence}{self.where}")

    def attempt(self, kind: str, failed: str, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``action``; where it raises, that is a violation, and None is returned."""
        try:
            return action(*args, **kwargs)
        except Exception as error:
            self.report(kind, f"{failed}: {type(error).__name__}: {error}")
            return None

    # -- making and copying -------------------------------------------------------------------------------------

    def make(self) -> Environment:
        """A new environment."""
        try:
            return self.creator(**self.config)
        except ConfigError:
            raise
        except Exception as error:
            self.report("make", f"it cannot be made: {type(error).__name__}: {error}")
            raise _Stop from error

    def make_twin(self, env: Environment) -> Environment:
        """Another environment of the same kind."""
        if self.given is None:
            return self.make()
        twin = self.attempt("twin", "there can be no second one", self.copied, env)
        if twin is None:
            raise _Stop
        assert isinstance(twin, Environment)
        return twin

    @staticmethod
    def copied(env: Environment) -> Environment:
        """A copy; a wrapper holds more than its ``configs`` say."""
        return copy.deepcopy(env) if isinstance(env, Wrapper) else type(env)(**env.configs)

    def check_copies(self, env: Environment) -> None:
        """That the environment can be made anew, here and in other processes."""
        parcel = (self.creator, self.config) if self.given is None else env
        hint = "" if self.given is None else "; give the class and its config instead of an object"
        self.attempt("pickle", f"cloudpickle cannot send it to other processes{hint}", cloudpickle.dumps, parcel)
        if isinstance(env, Wrapper) or (self.given is None and isinstance(self.creator, Creator)):
            return  # a function makes it, again and again
        rule = "hand all arguments of the constructor to 'super().__init__' by their names"
        if not isinstance(getattr(env, "configs", None), dict):
            self.report("configs", f"there is no dictionary 'env.configs': {rule}")
            raise _Stop
        lost = [key for key in self.config if key not in env.configs]
        if lost:
            self.report("configs", f"'env.configs' lacks {', '.join(map(repr, lost))}: {rule}")
            return
        remade = self.attempt("configs", f"'type(env)(**env.configs)' fails ({rule})", type(env), **env.configs)
        if remade is not None:
            if self.spaces_of(remade) != self.spaces_of(env):
                self.report("configs", f"'type(env)(**env.configs)' makes another environment: {rule}")
            self.attempt("close", "'close' failed", remade.close)

    # -- agents and spaces --------------------------------------------------------------------------------------

    def check_spaces(self, env: Environment) -> None:
        """That all agents have spaces that can be used; without them, nothing can be played."""
        agents = self.attempt("agents", "'possible_agents' fails", lambda: env.possible_agents)
        if not isinstance(agents, list) or not agents or not all(isinstance(agent, str) for agent in agents):
            self.report("agents", f"'possible_agents' must be a list of at least one string, not {agents!r}")
            raise _Stop
        if len(set(agents)) < len(agents):
            self.report("agents", f"'possible_agents' holds an agent twice: {agents}")
            raise _Stop
        arrays: dict[str, Callable[[spaces.Space], Any]] = {
            "observation_spaces": array_space,
            "action_spaces": array_action_space,
        }
        for name, to_array_space in arrays.items():
            given = self.attempt(name, f"'{name}' fails", getattr, env, name)
            if not isinstance(given, Mapping):
                self.report(name, f"'{name}' must be a dictionary, not {given!r}")
                continue
            for agent in [*agents, *(agent for agent in given if agent not in agents)]:
                if agent not in given:
                    self.report(f"{name} {agent}", f"'{name}' has no space for agent {agent!r}")
                elif agent not in agents:
                    self.report(f"{name} {agent}", f"'{name}' names {agent!r}, which is not in 'possible_agents'")
                elif not isinstance(given[agent], spaces.Space):
                    self.report(f"{name} {agent}", f"'{name}' of {agent!r} is {given[agent]!r}, no gymnasium space")
                else:
                    try:
                        to_array_space(given[agent])
                    except ConfigError as error:
                        self.report(f"{name} {agent}", f"'{name}' of {agent!r} cannot be used: {error}")
        if self.violations:
            raise _Stop

    def spaces_of(self, env: Environment) -> Any:
        """Agents and spaces, to be compared."""
        both = (env.observation_spaces, env.action_spaces, env.state_space)
        return copy.deepcopy((list(env.possible_agents), *both))

    # -- playing ------------------------------------------------------------------------------------------------

    def play(self, env: Environment, rules: StepRules) -> list[Episode]:
        """Episodes from the seed on; episode i always takes its actions from the same random numbers."""
        seeds = [self.seed, *[None] * (self.num_episodes - 1)]
        episodes = [self.play_one(env, seed, number, rules) for number, seed in enumerate(seeds)]
        self.where = ""
        return episodes

    def play_one(self, env: Environment, seed: int | None, number: int, rules: StepRules) -> Episode:
        """One episode, whose actions depend on ``number`` and what is legal alone.

        The books are kept as :meth:`Environment.advance` does it, which stumbles over some of what is to be explained.
        """
        choose = _Chooser(env.action_spaces, [self.seed, number])
        self.where = f" (when episode {number} began)"
        step = self.called(env.begin, seed=seed)
        masks = rules.judge(step, True, env.env_done_check)
        episode = [_frozen(step)]
        while masks:
            if len(episode) > self.limit:
                if self.max_step is None:
                    self.where = ""
                    self.report(
                        "endless",
                        f"an episode had not ended after {self.limit:,} steps: flag every agent as terminated or "
                        "truncated in the end, or give the time limit of your rollout, check_env(..., max_step=...)",
                    )
                break
            self.where = f" (in step {len(episode)} of episode {number})"
            step = self.called(env.time_step, {agent: choose(agent, mask) for agent, mask in masks.items()})
            env.cnt += 1
            masks = rules.judge(step, False, lambda step: self.is_over(env, step))
            episode.append(_frozen(step))
            self.check_state(env)
        env.finished = True
        if self.violations.keys() & {"type", "nobody", "endless"}:
            raise _Stop
        return episode

    def is_over(self, env: Environment, step: TimeStep) -> bool:
        """Whether the environment takes the episode for over after ``step``."""
        for flags in (step.terminated, step.truncated):
            env.ended.update(agent for agent in env.possible_agents if np.any(flags.get(agent, False)))
        return bool(self.called(env.env_done_check, step))

    def called(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a method of the environment returns; a violation where it raises."""
        try:
            return method(*args, **kwargs)
        except Exception as error:
            self.report("raises", f"'{method.__name__}' raised {type(error).__name__}: {error}")
            raise _Stop from error

    def check_state(self, env: Environment) -> None:
        """That the global state is in its space, or that there is neither."""
        state, space = self.called(env.state), env.state_space
        if (state is None) != (space is None):
            self.report("state", "'state' and 'state_space' must both be there, or both be None")
        elif space is not None and not space.contains(state):
            self.report("state", f"'state' returned what is not in 'state_space', {space}")

    # -- chance -------------------------------------------------------------------------------------------------

    def check_chance(self, env: Environment, twin: Environment, episodes: list[Episode]) -> None:
        """That the seed decides all chance, and that without one it goes on."""
        quiet = StepRules(env.observation_spaces, env.action_spaces, lambda kind, sentence: None)
        if not same(self.play(twin, quiet), episodes):
            self.report("seed", f"two environments with the same seed ({self.seed}) play different episodes")
            return
        first = episodes[0]
        if not same(self.play_one(env, self.seed, 0, quiet), first):
            self.where = ""
            self.report("seed", f"with the same seed ({self.seed}), an environment plays another episode than before")
            return

        def always_repeats(seeds: list[int | None]) -> bool | None:
            deadline = time.perf_counter() + _REPEATS_S
            for seed in seeds:
                if not same(self.play_one(env, seed, 0, quiet), first):
                    return False
                if time.perf_counter() > deadline:
                    return None
            return True

        repeats = always_repeats([None] * _REPEATS)
        seeded = always_repeats([self.seed + i for i in range(1, _REPEATS + 1)]) if repeats else None
        self.where = ""
        if repeats and seeded is False:
            self.report(
                "replay", "without a seed, it replays the episode of the last seed: seed=None must go on instead"
            )
        elif repeats and seeded:
            self.notes.append("every seed gives the same episode, which is right if nothing is left to chance")

    def check_resumption(self, env: Environment, twin: Environment) -> None:
        """That a random state makes another environment go on in the same way."""
        quiet = StepRules(env.observation_spaces, env.action_spaces, lambda kind, sentence: None)
        state = copy.deepcopy(self.attempt("state_dict", "'state_dict' failed", env.state_dict))
        if state is None:
            return
        self.attempt("state_dict", "'load_state_dict' failed", twin.load_state_dict, state)
        if "state_dict" not in self.violations and not same(
            self.play_one(env, None, 0, quiet), self.play_one(twin, None, 0, quiet)
        ):
            self.where = ""
            self.report("state_dict", "an environment with another's 'state_dict' does not go on as the other does")


class _Chooser:
    """Random legal actions."""

    def __init__(self, action_spaces: Mapping[AgentID, spaces.Space], seed: list[int]) -> None:
        self._rng = np.random.default_rng(seed)
        self._readers = {agent: ActionReader(space) for agent, space in action_spaces.items()}
        self._boxes = {}
        for agent, reader in self._readers.items():
            if isinstance(reader.array_space, spaces.Box):
                self._boxes[agent] = copy.deepcopy(reader.array_space)
                self._boxes[agent].seed(int(self._rng.integers(2**31)))

    def __call__(self, agent: AgentID, mask: np.ndarray | None) -> Any:
        reader = self._readers[agent]
        space = reader.array_space
        action: Any
        if isinstance(space, spaces.Box):
            action = self._boxes[agent].sample()
        elif isinstance(space, spaces.Discrete):
            action = self._one(int(space.n), mask)
        else:
            ends = np.cumsum(space.nvec)[:-1]
            parts = [None] * len(space.nvec) if mask is None else np.split(mask, ends)
            action = np.array([self._one(int(n), part) for n, part in zip(space.nvec, parts, strict=True)])
        return reader(np.asarray(action)[None])[0]

    def _one(self, size: int, mask: np.ndarray | None) -> int:
        legal = np.arange(size) if mask is None else np.flatnonzero(mask)
        return int(legal[self._rng.integers(len(legal))])


def _frozen(step: Any) -> tuple[Any, ...]:
    """A copy of a step's fields, without the infos: they may well hold the time."""
    if not isinstance(step, TimeStep):
        return ()
    return copy.deepcopy(tuple(step._replace(infos={})))
