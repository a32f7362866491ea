"""The trainer contract: how a policy learns."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch

from malib_lite.config import build
from malib_lite.contracts.data import DataSpec
from malib_lite.contracts.devices import to_tensor
from malib_lite.contracts.policy import Policy

BatchT = TypeVar("BatchT")  # what the store gives: Trajectories, Transitions, Decisions or a Pair
MinibatchT = TypeVar("MinibatchT")  # what one gradient is computed from
Metrics = dict[str, float]

_LEAST_LEFT = 0.01  # share of a learning rate, however far it falls


class Trainer(ABC, Generic[BatchT, MinibatchT]):
    """Pure mathematics around an optimiser: a batch in, an updated policy and metrics out.

    The learner's loop::

        for batch in store.batches():               # a store of the kind that ``data_spec`` asks for
            metrics = trainer.train(batch, num_steps)   # schedules run through its environment steps, update by update

    ``train`` is made of three parts, so that the same trainer serves one learner or K gradient workers:
    :meth:`minibatches` prepares the batch, :meth:`compute_gradients` touches no state of the optimiser, and
    :meth:`apply_gradients` is the only place where parameters change.
    """

    config_class: ClassVar[type]  # made with malib_lite.config.config
    batch_mode: ClassVar[Literal["time_step", "episode"]] = "time_step"  # "episode": rounds end with whole episodes
    # True: learns from a team's JointTrajectories, not from each agent's own. The policy then finds the team's size and
    # that of its global state in custom_config["team"], a TeamShape.
    joint: ClassVar[bool] = False
    rollout_defaults: ClassVar[Mapping[str, Any]] = {}  # of the rollout section, where the scenario has no own ones
    # Other defaults of config_class and of the policy's model_class where many short trainings of best responses are
    # wanted, as in PSRO: {"trainer": {...}, "model": {...}}. What the user sets comes first.
    best_response_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # The same for one long training of a best response to others who keep changing, and who are to play as it did, as
    # in neural fictitious self-play.
    fictitious_play_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(
        self,
        training_config: Mapping[str, Any] | Any,
        policy_instance: Policy,
        seed: int = 0,
        horizon: int | None = None,
    ) -> None:
        """
        Args:
            training_config: an object of ``config_class``, or a mapping of its fields.
            policy_instance: the policy that is trained in place, on the device where it is.
            seed: of the trainer's own random stream (shuffling and the like), which is on the CPU.
            horizon: environment steps that schedules span; None: the config's ``total_timesteps``, if it is set.
        """
        self.config = build(self.config_class, training_config, "trainer")
        self.policy = policy_instance
        self.device = policy_instance.device
        self.generator = torch.Generator().manual_seed(seed)
        self.horizon = horizon or getattr(self.config, "total_timesteps", None)
        self.num_steps = 0  # environment steps that have been learnt from
        self.num_updates = 0  # calls of apply_gradients
        self.batch_used = 1.0  # share of the batch that is behind after the minibatch that minibatches() gave last
        self.setup()
        self.follow_schedules()

    @abstractmethod
    def setup(self) -> None:
        """Build optimisers and target networks. As attributes they are saved and restored with the trainer."""

    @abstractmethod
    def data_spec(self) -> DataSpec:
        """The store that this trainer is fed from."""

    @abstractmethod
    def minibatches(self, batch: BatchT) -> Iterator[MinibatchT]:
        """Everything that happens to a batch before gradients: returns, advantages, shuffling, epochs.

        Where a batch gives several minibatches, :attr:`batch_used` is set before each: schedules follow it.
        """

    @abstractmethod
    def compute_gradients(self, minibatch: MinibatchT) -> tuple[Sequence[torch.Tensor], Metrics]:
        """Gradients of the loss, in the order of ``parameters()``, and what to report of it."""

    @abstractmethod
    def apply_gradients(self, gradients: Sequence[torch.Tensor]) -> Metrics:
        """Clip, step the optimiser, count the update, follow with target networks."""

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """``array`` as a tensor where the policy is."""
        return to_tensor(array, self.device)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [p for p in self.policy.parameters() if p.requires_grad]

    def networks(self) -> dict[str, torch.nn.Module]:
        """All that gradients depend on, by attribute: the policy, and target networks."""
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.nn.Module)}

    def advance(self, num_steps: int) -> None:
        """``num_steps`` further environment steps have been learnt from: schedules move on."""
        self.num_steps += num_steps
        self.follow_schedules()

    def follow_schedules(self) -> None:
        """Learning rates fall linearly over the horizon, to the config's ``learning_rate_final`` share of them.

        At least a hundredth is left, so that no update is without effect, also where one goes on past the horizon.
        Subclasses add what else depends on :meth:`progress`.
        """
        left = max(_LEAST_LEFT, 1 - self.progress() * (1 - getattr(self.config, "learning_rate_final", 1.0)))
        for optimiser in self._optimisers().values():
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * left

    def train(self, batch: BatchT, num_steps: int = 0) -> Metrics:
        """Learn from one batch; returns the mean of each metric over its minibatches.

        Args:
            num_steps: environment steps that the batch stands for. The first update is made where schedules are now,
                and they have moved on by all of them after the last.
        """
        sums: dict[str, float] = {}
        count, before = 0, self.num_steps
        for minibatch in self.minibatches(batch):
            gradients, metrics = self.compute_gradients(minibatch)
            metrics = {**metrics, **self.apply_gradients(gradients)}
            self.advance(before + int(num_steps * self.batch_used) - self.num_steps)
            count += 1
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
        self.advance(before + num_steps - self.num_steps)
        return {name: total / count for name, total in sums.items()}

    def progress(self) -> float:
        """Share of the horizon that has been learnt from, in [0, 1]; 0 where there is no horizon."""
        return min(1.0, self.num_steps / self.horizon) if self.horizon else 0.0

    def room(self, num_steps: int) -> int:
        """Of the ``num_steps`` environment steps of a round those over which schedules move: the last round may reach
        past the horizon, and all of its updates are made before the schedules' end."""
        return num_steps if not self.horizon else max(0, min(num_steps, self.horizon - self.num_steps))

    def explored(self) -> float:
        """Share of the config's ``exploration_fraction`` of the horizon that is behind, in [0, 1]; 1 without either."""
        fraction = self.config.exploration_fraction
        return min(1.0, self.progress() / fraction) if self.horizon and fraction else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Everything but the policy that an exact continuation needs: optimisers, target networks, the random stream.

        Copies, where torch gives references.
        """
        return {
            "num_steps": self.num_steps,
            "num_updates": self.num_updates,
            "generator": self.generator.get_state(),
            **{name: copy.deepcopy(part.state_dict()) for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.num_steps = state["num_steps"]
        self.num_updates = state["num_updates"]
        self.generator.set_state(state["generator"])
        for name, part in self._parts().items():
            part.load_state_dict(copy.deepcopy(state[name]))
        self.follow_schedules()

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.optim.Optimizer)}

    def _parts(self) -> dict[str, Any]:
        """What is saved beside the policy."""
        return {name: part for name, part in {**self._optimisers(), **self.networks()}.items() if name != "policy"}


class TeamShape(NamedTuple):
    """How large a team is."""

    num_agents: int  # N
    state_size: int  # S, of JointTrajectories.global_state


class Algorithm(NamedTuple):
    """What an algorithm's module announces: its policy and the trainer of that policy."""

    policy: type[Policy]
    trainer: type[Trainer[Any, Any]]
