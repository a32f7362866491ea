"""``run(scenario)``: builds the run's actors and channels, lets the scenario drive them, and takes everything down."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from malib_lite.agent.agent_spec import AgentSpec
from malib_lite.agent.gradient_worker import GradientWorker, GradientWorkerSpec
from malib_lite.agent.gradients import NUM_PERMITS, PERMIT_LAYOUT, WorkerLink, record_layout
from malib_lite.agent.manager import TrainingManager
from malib_lite.backend.bus import BusAddress, LocalAddress
from malib_lite.backend.mailbox import MailboxSpec
from malib_lite.backend.members import MemberFolder
from malib_lite.backend.ring import RingSpec, SlotLayout
from malib_lite.backend.snapshots import longest_message
from malib_lite.rollout.inference.pipe import mailbox_layouts
from malib_lite.rollout.inference.server import InferenceServer, InferenceSpec
from malib_lite.rollout.manager import RolloutWorkerManager
from malib_lite.rollout.recorder import trajectory_fields
from malib_lite.rollout.rolloutworker import RolloutWorker, WorkerSpec
from malib_lite.rollout.sampler import fragment_capacity
from malib_lite.runtime.actors import ActorSpec, Runtime, SerialRuntime
from malib_lite.runtime.console import Console
from malib_lite.runtime.files import UnwrittenFile
from malib_lite.runtime.metrics import MetricsWriter
from malib_lite.runtime.processes import ProcessRuntime
from malib_lite.runtime.run_folder import RunFolder, to_json
from malib_lite.runtime.shared_memory import SharedFolder, sweep
from malib_lite.runtime.signals import interruptible, uninterrupted
from malib_lite.scenarios.checkpoints import Checkpoints
from malib_lite.scenarios.run import Run
from malib_lite.scenarios.scenario import Scenario


def run(scenario: Scenario, console: Console | None = None, started: float | None = None) -> dict[str, Any]:
    """Run a scenario to its end.

    Args:
        console: where progress is shown.
        started: ``time.monotonic()`` when the user's command began, for ``wall_s``; now, if None.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ConfigError: the run folder cannot be used; nothing has been started.
        ActorFailure: a process failed for good.
        UnwrittenFile: the disk is full or the folder is gone, for example. The result is shown where it is not in
            ``summary.json``. Whatever is raised, no process and no shared memory is left, and ``summary.json`` says
            how the run ended, if it can be written.
    """
    started = time.monotonic() if started is None else started
    console = console or Console()
    with RunFolder(scenario.log_dir) as folder:
        return _run(scenario, folder, console, started)


def _run(scenario: Scenario, folder: RunFolder, console: Console, started: float) -> dict[str, Any]:
    """The same, in a folder that is this run's own."""
    folder.write_config(scenario.resolved_config())
    folder.write_manifest(scenario.seed)
    for left in sweep():
        console.say(f"removed {left}, which a run that was killed had left")
    summary: dict[str, Any] = {"status": "failed", "scenario": scenario.name, "seed": scenario.seed}
    totals: Run | None = None
    with interruptible():
        try:
            with _build(scenario, folder, console) as totals:
                summary |= scenario.execute(totals)
                summary["status"] = "completed"
        except KeyboardInterrupt:
            if summary["status"] != "completed":
                summary["status"] = "interrupted"
            raise
        except BaseException as error:
            summary["error"] = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            raise
        finally:
            with uninterrupted():  # the result first: drawing takes seconds
                if totals is not None:
                    summary = _totals(totals, summary)
                summary["wall_s"] = round(time.monotonic() - started, 3)
                lost = _keep(folder, summary, console)
            if totals is not None and lost is None:
                lost = _draw(scenario, totals, summary, console)
            if lost is not None and _is_done(summary):
                raise lost  # else what ended the run is raised already
    return summary


def _keep(folder: RunFolder, summary: Mapping[str, Any], console: Console) -> UnwrittenFile | None:
    """Write the summary; where it cannot be written, say it, and return why."""
    try:
        folder.write_json("summary.json", summary)
    except UnwrittenFile as error:
        console.alarm(f"{error}; this would be in it: {to_json(summary)}")
        return error
    return None


def _is_done(summary: Mapping[str, Any]) -> bool:
    """Whether the run came to its end and nothing failed then."""
    return summary["status"] == "completed" and "error" not in summary


def _totals(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with the run's totals; where the run did not come to its end, with the figures of its last report."""
    last: Mapping[str, Any] = {}
    if summary["status"] != "completed":
        with contextlib.suppress(OSError, ValueError):  # the folder may be what is missing
            last = next(iter(deque(run.reports, maxlen=1)), {})
    return {
        **{name: value for name, value in last.items() if isinstance(value, int | float) and name != "step"},
        **summary,
        "env_steps": run.env_steps,
        "episodes": run.episodes,
        "updates": run.updates,
        "env_crashes": run.env_crashes,
        "replaced": dict(run.runtime.replaced),
        "sync": {runtime_id: tally.summary() for runtime_id, tally in run.sync.items()},
    }


def _draw(scenario: Scenario, run: Run, summary: Mapping[str, Any], console: Console) -> UnwrittenFile | None:
    """The run's plots, as far as it came. One that cannot be drawn takes nothing from the result.

    Returns:
        Why something cannot be written, or what was written is there no longer.
    """
    missing: Exception | None = None
    try:
        if any(True for _ in run.reports):
            scenario.plot(run)
        for runtime_id, timeline in run.timelines.items():
            from malib_lite.runtime.plots import plot_timeline

            title = f"{scenario.title}: gradient workers of {runtime_id}, {scenario.training.sync}"
            plot_timeline(run.folder.path / "plots" / f"timeline-{runtime_id}.png", title, timeline)
    except Exception as error:
        missing = error
    try:
        run.folder.check()
    except UnwrittenFile as gone:
        console.alarm(f"{gone}; the result: {to_json(summary)}")
        return gone
    if isinstance(missing, UnwrittenFile) and _is_done(summary):
        return missing
    if missing is not None:
        reason = str(missing) if isinstance(missing, UnwrittenFile) else f"{type(missing).__name__}: {missing}"
        console.say(f"plots are missing: {reason}")
    return None


@contextlib.contextmanager
def _build(scenario: Scenario, folder: RunFolder, console: Console) -> Iterator[Run]:
    """Everything a run consists of, and its end."""
    rollout = scenario.rollout
    serial = rollout.num_threads == 0 or not scenario.plays  # nothing is there that could run beside this process
    rings = _rings(scenario)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_torch_thread())
        metrics = MetricsWriter(folder.path)
        stack.callback(metrics.close)
        links, mailboxes = _links(scenario), _mailboxes(scenario)
        num_bytes = _bytes_of_workers(rings, mailboxes)
        num_bytes += sum(ring.num_bytes for of_learner in links.values() for link in of_learner for ring in link)
        shared = None if serial else stack.enter_context(SharedFolder(num_bytes))
        rings = [{rid: ring.create(shared) for rid, ring in of_worker.items()} for of_worker in rings]
        mailboxes = [[mailbox.create(shared) for mailbox in of_worker] for of_worker in mailboxes]
        links = {
            rid: [WorkerLink(*(ring.create(shared) for ring in link)) for link in of_learner]
            for rid, of_learner in links.items()
        }
        addresses: dict[str, Any] = {
            rid: LocalAddress()
            if shared is None
            else BusAddress(shared.endpoint(f"pub{n}"), shared.endpoint(f"ask{n}"), _longest_message(scenario, rid))
            for n, rid in enumerate(scenario.seats)
        }
        members = MemberFolder(folder.path / "checkpoints" / "policies")
        specs = _actors(scenario, folder, members, rings, mailboxes, links, addresses)
        runtime: Runtime
        if shared is None:
            runtime = SerialRuntime(len(specs))
        else:
            modules = {scenario.env_description["creator"].__module__}
            modules |= {spec.policy_class.__module__ for spec in scenario.policies.values()}
            runtime = ProcessRuntime(
                shared, len(specs), folder.path / "logs", sorted(modules - {"__main__"}),
                rollout.hang_timeout_s, console.say,
            )  # fmt: skip
        stack.callback(runtime.close)
        runtime.start(specs)
        training = TrainingManager(runtime, list(scenario.seats), scenario.num_gradient_workers)
        workers = RolloutWorkerManager(
            runtime, scenario.num_workers, rollout.num_eval_threads, rollout.inference_server == "pipe"
        )
        run = Run(
            runtime, training, workers, folder, members, console, metrics,
            Checkpoints(folder, members, scenario.training.keep_checkpoints),
        )  # fmt: skip
        stack.enter_context(run._exit)  # the bar is gone before anything else is said
        yield run


def num_processes(scenario: Scenario) -> int:
    """Processes that a run starts beside the main one, those of its environments among them."""
    rollout, workers = scenario.rollout, scenario.num_workers
    learning = len(scenario.seats) * (1 + scenario.num_gradient_workers)
    return workers * (1 + (rollout.subproc.num_processes if rollout.subproc else 0)) + learning


def shared_bytes(scenario: Scenario) -> int:
    """Shared memory that a run takes for what rollout workers send and ask."""
    return _bytes_of_workers(_rings(scenario), _mailboxes(scenario))


def _bytes_of_workers(rings: list[dict[str, RingSpec]], mailboxes: list[list[MailboxSpec]]) -> int:
    num_bytes = sum(mailbox.num_bytes for of_worker in mailboxes for mailbox in of_worker)
    return num_bytes + sum(ring.num_bytes for of_worker in rings for ring in of_worker.values())


def _longest_message(scenario: Scenario, runtime_id: str) -> int:
    """Bytes that no message of a learner's parameters exceeds."""
    spec, (trainer_class, settings) = scenario.policies[runtime_id], scenario.trainers[runtime_id]
    states = [spec.outline().state_dict()]
    if scenario.num_gradient_workers:
        networks = trainer_class(settings, spec.make(0)).networks()
        states.append({f"{name}.{key}": t for name, net in networks.items() for key, t in net.state_dict().items()})
    return max(
        longest_message((name, tensor.nbytes, tensor.ndim) for name, tensor in state.items()) for state in states
    )


def _rings(scenario: Scenario) -> list[dict[str, RingSpec]]:
    """The rings that the run needs, by worker and runtime id; none has memory yet."""
    rollout = scenario.rollout
    # one round is learnt from, another one is played; or as many as the rollout may be ahead
    num_slots = 1 + max(1, scenario.rollout_lead or 0)
    capacity = fragment_capacity(rollout.num_decisions, scenario.whole_episodes, rollout.max_step)
    layouts = {}
    for runtime_id, player in scenario.seats.items():
        spec, agents = scenario.policies[runtime_id], scenario.groups[player]
        extras = spec.outline().recorded_fields
        num_streams = rollout.num_env_per_thread * len(agents)
        team: tuple[int | None, int | None] = None, None
        if player in scenario.teams:
            num_streams, team = rollout.num_env_per_thread, (len(agents), scenario.state_size)
        layouts[runtime_id] = SlotLayout(
            trajectory_fields(spec.observation_space, spec.action_space, extras, capacity, num_streams, *team)
        )
    return [
        {
            rid: RingSpec(f"ring-{worker}-{number}", layout, num_slots)
            for number, (rid, layout) in enumerate(layouts.items())
        }
        for worker in range(scenario.num_workers)
    ]


def _links(scenario: Scenario) -> dict[str, list[WorkerLink]]:
    """What each learner and its gradient workers talk over, by runtime id; none has memory yet."""
    links: dict[str, list[WorkerLink]] = {runtime_id: [] for runtime_id in scenario.seats}
    if not scenario.num_gradient_workers:
        return links  # a trainer that tells its layout takes long to make: with it come torch's optimisers
    for index, (runtime_id, (trainer_class, settings)) in enumerate(scenario.trainers.items()):
        layout = record_layout(trainer_class(settings, scenario.policies[runtime_id].make(0)))
        for number in range(scenario.num_gradient_workers):
            name = f"{index}-{number}"
            links[runtime_id].append(
                WorkerLink(RingSpec(f"permits-{name}", PERMIT_LAYOUT, NUM_PERMITS), RingSpec(f"records-{name}", layout))
            )
    return links


def _mailboxes(scenario: Scenario) -> list[list[MailboxSpec]]:
    """Where rollout workers ask the inference server, by worker and arena; none has memory yet."""
    if scenario.rollout.inference_server == "local":
        return [[] for _ in range(scenario.num_workers)]
    layouts = {}
    for runtime_id, player in scenario.seats.items():
        num_rows = scenario.rollout.num_env_per_thread * len(scenario.groups[player])
        spec = scenario.policies[runtime_id]
        policy = spec.outline()
        layouts[runtime_id] = mailbox_layouts(
            spec.observation_space, spec.action_space, policy.extra_fields, policy.memory_size, num_rows
        )
    return [
        [
            MailboxSpec(
                f"mailbox-{worker}-{number}",
                {rid: layouts[rid][0] for rid in arena},
                {rid: layouts[rid][1] for rid in arena},
            )
            for number, arena in enumerate(scenario.arenas())
        ]
        for worker in range(scenario.num_workers)
    ]


def _actors(
    scenario: Scenario,
    folder: RunFolder,
    members: MemberFolder,
    rings: list[dict[str, RingSpec]],
    mailboxes: list[list[MailboxSpec]],
    links: Mapping[str, list[WorkerLink]],
    addresses: Mapping[str, Any],
) -> list[ActorSpec]:
    """The run's actors. Workers first: serial mode resumes in this order, and there is nothing to learn before."""
    if not scenario.plays:
        return []
    return [
        *_workers(scenario, members, rings, mailboxes, addresses),
        *_inference_server(scenario, mailboxes, addresses),
        *_learners(scenario, folder, members, rings, links, addresses),
    ]


def _workers(
    scenario: Scenario,
    members: MemberFolder,
    rings: list[dict[str, RingSpec]],
    mailboxes: list[list[MailboxSpec]],
    addresses: Mapping[str, Any],
) -> list[ActorSpec]:
    """The rollout workers."""
    rollout = scenario.rollout
    worker_spec = WorkerSpec(
        env_description=scenario.env_description,
        groups=scenario.groups,
        policies={**scenario.policies, **scenario.scripted},
        addresses=addresses,
        seats=scenario.seats,
        arenas=scenario.arenas(),
        members=members,
        num_envs=rollout.num_env_per_thread,
        num_decisions=rollout.num_decisions,
        whole_episodes=scenario.whole_episodes,
        max_step=rollout.max_step,
        seed=scenario.seed,
        subproc=rollout.subproc,
        teams=scenario.teams,
        agent_ids=rollout.agent_ids,
        lead=scenario.rollout_lead,
    )
    return [
        ActorSpec(
            RolloutWorkerManager.actor(worker),
            RolloutWorker,
            {"spec": worker_spec, "worker": worker, "rings": of_worker, "mailboxes": mailboxes[worker]},
            restarts=rollout.worker_restarts,
        )
        for worker, of_worker in enumerate(rings)
    ]


def _inference_server(
    scenario: Scenario, mailboxes: list[list[MailboxSpec]], addresses: Mapping[str, Any]
) -> list[ActorSpec]:
    """The inference server, where there is one."""
    rollout = scenario.rollout
    if rollout.inference_server == "local":
        return []
    spec = InferenceSpec(
        policies=scenario.policies,
        addresses=addresses,
        arenas=scenario.arenas(),
        mailboxes=mailboxes,
        seed=scenario.seed,
        batch=rollout.inference_batch,
        # in one process everybody who can ask has asked when it is the server's turn: it would wait for nobody
        deadline_s=rollout.inference_deadline_s if rollout.num_threads else 0.0,
        lockstep=scenario.rollout_lead == 0,
    )
    return [ActorSpec(RolloutWorkerManager.SERVER, InferenceServer, {"spec": spec}, restarts=rollout.worker_restarts)]


def _learners(
    scenario: Scenario,
    folder: RunFolder,
    members: MemberFolder,
    rings: list[dict[str, RingSpec]],
    links: Mapping[str, list[WorkerLink]],
    addresses: Mapping[str, Any],
) -> list[ActorSpec]:
    """The learners, behind their gradient workers."""
    learners, gradient_workers = [], []
    for runtime_id, player in scenario.seats.items():
        of_learner, interface = links[runtime_id], scenario.interfaces[runtime_id]
        spec = AgentSpec(
            runtime_id=runtime_id,
            governed_agents=scenario.groups[player],
            policy=scenario.policies[runtime_id],
            trainer_class=scenario.trainers[runtime_id][0],
            trainer_config=scenario.trainers[runtime_id][1],
            address=addresses[runtime_id],
            members=members,
            rings=[of_worker[runtime_id] for of_worker in rings],
            log_dir=folder.path / "logs",
            seed=scenario.seed,
            sync=scenario.training,
            device=scenario.training.device,
            workers=of_learner,
        )
        share = len(rings) // max(1, len(of_learner))  # rollout workers that each gradient worker is fed by
        for number, link in enumerate(of_learner):
            own = dataclasses.replace(spec, rings=spec.rings[number * share : (number + 1) * share])
            gradient_workers.append(
                ActorSpec(
                    TrainingManager.worker(runtime_id, number),
                    GradientWorker,
                    {"spec": GradientWorkerSpec(own, interface, number, link)},
                    restarts=scenario.rollout.worker_restarts,
                )
            )
        learners.append(
            ActorSpec(
                TrainingManager.actor(runtime_id),
                interface,
                {"spec": spec},
            )
        )
    return [*gradient_workers, *learners]


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """This process computes as its children do: the number of threads changes the order of floating-point sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
