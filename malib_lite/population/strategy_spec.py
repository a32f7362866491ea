"""The strategy spec: a runtime id's pool of policies and a mixture over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from malib_lite.contracts.policy import Policy


class StrategySpec:
    """Which policies a runtime id has, with which probability each is played, and how they are made."""

    def __init__(self, identifier: str, policy_ids: Sequence[str], meta_data: Mapping[str, Any]) -> None:
        """
        Args:
            identifier: the runtime id.
            policy_ids: ids of the pool's policies, possibly none.
            meta_data: ``policy_cls`` and ``kwargs`` make a policy; ``prob_list``, where given, is the mixture.

        Raises:
            ValueError: the mixture does not fit the policies.
        """
        self.id = identifier
        self.policy_ids = tuple(policy_ids)
        self.meta_data = dict(meta_data)
        given = self.meta_data.pop("prob_list", None)
        self._probabilities = np.asarray(given if given is not None else np.zeros(len(self.policy_ids)), np.float64)
        if given is not None and (len(given) != len(self.policy_ids) or abs(sum(given) - 1.0) > 1e-6):
            raise ValueError(f"{identifier}: {len(self.policy_ids)} policies cannot be mixed by {list(given)}")

    @property
    def num_policy(self) -> int:
        """How many policies the pool has."""
        return len(self.policy_ids)

    @property
    def mixture(self) -> dict[str, float]:
        """Probability of each policy; uniform as long as none was set."""
        probabilities = self._probabilities
        if probabilities.sum() == 0.0:
            probabilities = np.full(self.num_policy, 1.0 / max(1, self.num_policy))
        return dict(zip(self.policy_ids, probabilities.tolist(), strict=True))

    def register_policy_id(self, policy_id: str) -> None:
        """Add a policy, with probability 0.

        Raises:
            ValueError: the pool has it already.
        """
        if policy_id in self.policy_ids:
            raise ValueError(f"{self.id} already has a policy '{policy_id}'")
        self.policy_ids += (policy_id,)
        self._probabilities = np.append(self._probabilities, 0.0)

    def update_prob_list(self, policy_probs: Mapping[str, float]) -> None:
        """Set probabilities of some or all policies.

        Raises:
            ValueError: a policy is unknown, or the whole does not sum to 1.
        """
        probabilities, numbers = self._probabilities.copy(), {own: n for n, own in enumerate(self.policy_ids)}
        for policy_id, probability in policy_probs.items():
            if policy_id not in numbers:
                raise ValueError(f"{self.id} has no policy '{policy_id}', it has {list(self.policy_ids)}")
            probabilities[numbers[policy_id]] = probability
        if abs(probabilities.sum() - 1.0) > 1e-6 or (probabilities < 0).any():
            raise ValueError(f"{self.id}: {probabilities.tolist()} is no distribution")
        self._probabilities = probabilities

    def sample(self, generator: np.random.Generator) -> str:
        """Draw a policy id from the mixture."""
        return self.policy_ids[int(generator.choice(self.num_policy, p=list(self.mixture.values())))]

    def gen_policy(self, seed: int = 0) -> Policy:
        """A policy of this pool's kind, with fresh parameters."""
        policy: Policy = self.meta_data["policy_cls"](**self.meta_data["kwargs"])
        policy.seed(seed)
        return policy

    def load_from_checkpoint(self, path: Path) -> Policy:
        """The policy saved at ``path`` (a ``.safetensors`` file of a run's ``checkpoints/policies``).

        Raises:
            DamagedFile: it is none, or is not what it was.
        """
        from malib_lite.runtime.sealed import read_arrays

        policy = self.gen_policy()
        policy.import_state(read_arrays(path))
        return policy

    def state_dict(self) -> dict[str, Any]:
        """Ids and probabilities."""
        return {"policy_ids": list(self.policy_ids), "probabilities": self._probabilities.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.policy_ids = tuple(state["policy_ids"])
        self._probabilities = np.asarray(state["probabilities"], np.float64)
