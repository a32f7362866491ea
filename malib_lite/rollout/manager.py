"""The rollout worker manager: all rollout workers of a run, as the scenario sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from malib_lite.backend.members import Member
from malib_lite.rollout.books import Books
from malib_lite.runtime.actors import Call, Runtime

Pools = Mapping[str, Mapping[Member, float]]  # by player: probability of each member


def _as_text(pools: Pools) -> dict[str, dict[str, float]]:
    return {player: {str(member): chance for member, chance in pool.items()} for player, pool in pools.items()}


class RolloutWorkerManager:
    """Words the calls that have the workers play."""

    SERVER = "inference"

    def __init__(
        self, runtime: Runtime, num_workers: int, num_eval_workers: int, inference_server: bool = False
    ) -> None:
        """
        Args:
            inference_server: whether there is one, the actor :attr:`SERVER`, that acts for the workers' learners.
        """
        self._runtime = runtime
        self._inference_server = inference_server
        self._num_workers = num_workers
        self._num_eval_workers = min(num_eval_workers, num_workers)
        self._num_simulations = 0

    @staticmethod
    def actor(worker: int) -> str:
        """Name of a worker's actor."""
        return f"rollout-{worker}"

    def calls(
        self,
        learners: Mapping[str, str],
        versions: Mapping[str, int],
        num_rounds: int,
        base_sequence: int,
        leg: int,
        opponents: Mapping[str, Pools] | None = None,
    ) -> dict[str, Call]:
        """The calls by which every worker plays ``num_rounds`` rounds, or for as long as ``leg`` lasts.

        Args:
            opponents: the pools that each learner's arena is played against, by the learner's runtime id.
        """
        arguments = {
            "learners": dict(learners),
            "first_versions": dict(versions),
            "num_rounds": num_rounds,
            "base_sequence": base_sequence,
            "leg": leg,
            "opponents": {runtime_id: _as_text(pools) for runtime_id, pools in (opponents or {}).items()},
        }
        calls = {self.actor(worker): Call("rollout", arguments) for worker in range(self._num_workers)}
        if self._inference_server:
            calls[self.SERVER] = Call("serve", {"learners": dict(learners), "leg": leg})
        return calls

    def retrieve(self, results: Mapping[str, Any]) -> Books:
        """The books of all workers, from what their calls returned."""
        return Books.sum(Books.from_json(results[self.actor(worker)]) for worker in range(self._num_workers))

    def simulate(
        self,
        matches: Sequence[Pools],
        num_episodes: int,
        greedy: bool = False,
    ) -> list[Books]:
        """Play ``num_episodes`` of every match, shared among the evaluating workers; returns the books of each.

        Args:
            matches: a pool for every player.
            greedy: whether all act by their modes, exploration off; otherwise each plays its policy proper.
        """
        workers = range(min(self._num_eval_workers, num_episodes))
        shares = [num_episodes // len(workers) + (worker < num_episodes % len(workers)) for worker in workers]
        calls = {
            self.actor(worker): Call(
                "simulate",
                {
                    "matches": [_as_text(match) for match in matches],
                    "num_episodes": shares[worker],
                    "greedy": greedy,
                    "seed": self._num_simulations,
                },
            )
            for worker in workers
        }
        self._num_simulations += 1
        results = self._runtime.run(calls)
        return [
            Books.sum(Books.from_json(results[self.actor(worker)][number]) for worker in workers)
            for number in range(len(matches))
        ]
