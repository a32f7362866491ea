"""Who runs the policies: every rollout worker its own, or one process for all of them, in batches.

python benchmarks/inference.py

Four workers play CartPole with PPO's policy, for a few seconds each way; what they play is thrown away.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from malib_lite.algorithms.ppo import PPOPolicy
from malib_lite.backend.bus import BusAddress
from malib_lite.backend.mailbox import MailboxSpec
from malib_lite.backend.members import MemberFolder
from malib_lite.backend.ring import RingSpec, SlotLayout
from malib_lite.environments import describe_environment
from malib_lite.rollout.inference.pipe import mailbox_layouts
from malib_lite.rollout.inference.server import InferenceServer, InferenceSpec
from malib_lite.rollout.manager import RolloutWorkerManager
from malib_lite.rollout.recorder import trajectory_fields
from malib_lite.rollout.rolloutworker import PolicySpec, RolloutWorker, WorkerSpec
from malib_lite.runtime.actors import ActorSpec
from malib_lite.runtime.processes import ProcessRuntime
from malib_lite.runtime.shared_memory import SharedFolder

NUM_WORKERS = 4
NUM_DECISIONS = 64
SECONDS = 4.0
WARM_UP_S = 2.0
REPEATS = 2  # in turns; the best of each counts
ID = "agent"


def steps_per_second(pipe: bool, hidden: tuple[int, ...], num_envs: int) -> float:
    """Environment steps of all workers."""
    description = describe_environment("gym/CartPole-v1")
    space, action_space = description["observation_spaces"][ID], description["action_spaces"][ID]
    policy_spec = PolicySpec(PPOPolicy, space, action_space, {"hidden_sizes": hidden}, {})
    policy = policy_spec.make(0)
    layout = SlotLayout(trajectory_fields(space, action_space, policy.recorded_fields, NUM_DECISIONS, num_envs))
    request, answer = mailbox_layouts(space, action_space, policy.extra_fields, 0, num_envs)
    with SharedFolder() as folder, tempfile.TemporaryDirectory() as logs:
        rings = [RingSpec(f"ring-{worker}", layout, overflow="drop").create(folder) for worker in range(NUM_WORKERS)]
        mailboxes = [
            MailboxSpec(f"mailbox-{worker}", {ID: request}, {ID: answer}).create(folder)
            for worker in range(NUM_WORKERS)
        ]
        address = BusAddress(folder.endpoint("pub"), folder.endpoint("ask"))
        common: dict[str, Any] = {
            "policies": {ID: policy_spec}, "addresses": {ID: address}, "arenas": [[ID]], "seed": 0, "lockstep": False,
        }  # fmt: skip
        spec = WorkerSpec(
            description, {ID: [ID]}, num_envs=num_envs, num_decisions=NUM_DECISIONS, whole_episodes=False,
            max_step=None, seats={ID: ID}, members=MemberFolder(Path(logs)), **common,
        )  # fmt: skip
        actors = [
            ActorSpec(
                RolloutWorkerManager.actor(worker), RolloutWorker,
                {"spec": spec, "worker": worker, "rings": {ID: ring}, "mailboxes": [mailboxes[worker]] if pipe else []},
            )
            for worker, ring in enumerate(rings)
        ]  # fmt: skip
        if pipe:
            server = InferenceSpec(
                mailboxes=[[mailbox] for mailbox in mailboxes], batch=None, deadline_s=0.002, **common
            )
            actors.append(ActorSpec(RolloutWorkerManager.SERVER, InferenceServer, {"spec": server}))
        runtime = ProcessRuntime(folder, len(actors), Path(logs), ["malib_lite.rollout.inference.server"])
        parameters = address.serve()
        try:
            runtime.start(actors)
            parameters.set_weights(ID, 0, policy.export_state())
            opened = [ring.open() for ring in rings]
            marks: list[tuple[float, int]] = []  # when, and how many steps by then

            def watch() -> None:
                parameters.serve()
                now, steps = time.monotonic(), runtime.board.totals()["env_steps"]
                if steps and (not marks or (len(marks) == 1 and now > marks[0][0] + WARM_UP_S)):
                    marks.append((now, steps))
                if len(marks) == 2 and now > marks[1][0] + SECONDS:
                    marks.append((now, steps))
                    for ring in opened:
                        ring.close(0)

            calls = RolloutWorkerManager(runtime, NUM_WORKERS, 1, pipe).calls({ID: ID}, {ID: 0}, 0, 0, 0)
            runtime.run(calls, watch)
        finally:
            runtime.close()
            parameters.close()
    (began, before), (ended, after) = marks[1:]
    return (after - before) / (ended - began)


def main() -> None:
    print(f"{NUM_WORKERS} workers, environment steps/s")
    print(f"{'network':>14} {'environments each':>18} {'local':>9} {'pipe':>9} {'pipe / local':>13}")
    for hidden in ((64, 64), (2048, 2048)):
        for num_envs in (1, 16):
            rates = [[steps_per_second(pipe, hidden, num_envs) for pipe in (False, True)] for _ in range(REPEATS)]
            local, pipe = (max(of_way) for of_way in zip(*rates, strict=True))
            name = " x ".join(map(str, hidden))
            print(f"{name:>14} {num_envs:18} {local:9,.0f} {pipe:9,.0f} {pipe / local:13.2f}", flush=True)


if __name__ == "__main__":
    main()
