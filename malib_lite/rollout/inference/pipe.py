"""The worker's end of a batched inference server: a mailbox in shared memory."""

from __future__ import annotations

from collections.abc import Generator, Mapping

import numpy as np
from gymnasium import spaces

from malib_lite.backend.mailbox import Mailbox
from malib_lite.backend.ring import Slot, SlotLayout
from malib_lite.contracts.data import Field
from malib_lite.models.actions import num_choices
from malib_lite.rollout.inference.local import Answer, Request
from malib_lite.runtime.board import Row

_EXTRA = "extra/"


def mailbox_layouts(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    extra_fields: Mapping[str, Field],
    memory_size: int,
    num_rows: int,
) -> tuple[SlotLayout, SlotLayout]:
    """The request and the answer of one runtime id, for up to ``num_rows`` agents in all environments together."""
    assert observation_space.shape is not None and action_space.shape is not None
    request = {"observation": Field((num_rows, *observation_space.shape), np.dtype(observation_space.dtype))}
    answer = {"action": Field((num_rows, *action_space.shape), np.dtype(action_space.dtype))}
    choices = num_choices(action_space)
    if choices is not None:
        request["action_mask"] = Field((num_rows, choices), np.dtype(bool))
        request["is_masked"] = Field((1,), np.dtype(bool))
    if memory_size:
        request["memory"] = answer["memory"] = Field((num_rows, memory_size), np.dtype(np.float32))
    for name, field in extra_fields.items():
        answer[_EXTRA + name] = Field((num_rows, *field.shape), field.dtype)
    return SlotLayout(request), SlotLayout(answer)


def write_request(slot: Slot, request: Request | None, version: int) -> None:
    """Write what is asked for; None: nothing. ``version`` is the least of the parameters that may answer."""
    slot.write_meta(rows=0 if request is None else len(request.observation), policy_version=version)
    if request is None:
        return
    rows, arrays = len(request.observation), slot.arrays
    arrays["observation"][:rows] = request.observation
    if "is_masked" in arrays:
        arrays["is_masked"][0] = request.action_mask is not None
    if request.action_mask is not None:
        arrays["action_mask"][:rows] = request.action_mask
    if request.memory is not None:
        arrays["memory"][:rows] = request.memory


def read_request(slot: Slot) -> Request:
    """What was asked for, as views of the slot."""
    arrays = slot.arrays
    rows = slot.num_rows(len(arrays["observation"]))
    is_masked = "is_masked" in arrays and bool(arrays["is_masked"][0])
    return Request(
        arrays["observation"][:rows],
        arrays["action_mask"][:rows] if is_masked else None,
        arrays["memory"][:rows] if "memory" in arrays else None,
    )


def write_answer(slot: Slot, answer: Answer, rows: slice, version: int) -> None:
    """Write some ``rows`` of an answer to many."""
    count = rows.stop - rows.start
    action, extras, memory = answer
    slot.write_meta(rows=count, policy_version=version)
    slot.arrays["action"][:count] = action[rows]
    for name, extra in extras.items():
        slot.arrays[_EXTRA + name][:count] = extra[rows]
    if memory is not None:
        slot.arrays["memory"][:count] = memory[rows]


def read_answer(slot: Slot) -> tuple[Answer, int]:
    """What was answered, as copies, for the slot is written again while they are in use; and by which version."""
    arrays = slot.arrays
    rows = slot.num_rows(len(arrays["action"]))
    answer = (
        arrays["action"][:rows].copy(),
        {name[len(_EXTRA) :]: array[:rows].copy() for name, array in arrays.items() if name.startswith(_EXTRA)},
        arrays["memory"][:rows].copy() if "memory" in arrays else None,
    )
    return answer, slot.meta["policy_version"]


class PipeInference:
    """Asks the server, once a step for all learners of an arena; has no policies and follows no parameters."""

    def __init__(self, mailbox: Mailbox, row: Row, seats: Mapping[str, str]) -> None:
        """
        Args:
            mailbox: of this worker and arena; its topics are the arena's runtime ids.
            row: of the worker on the board, so that answers count as progress.
            seats: the player of each runtime id.
        """
        self._mailbox = mailbox
        self._row = row
        self._seats = {runtime_id: seats[runtime_id] for runtime_id in mailbox.requests}
        self.memory_sizes = {
            seats[runtime_id]: int(slot.arrays["memory"].shape[1]) if "memory" in slot.arrays else 0
            for runtime_id, slot in mailbox.requests.items()
        }
        self.versions = dict.fromkeys(self.memory_sizes, 0)
        self.oldest: dict[str, int] = {}
        self._wanted: Mapping[str, int] = {}
        self._requests: Mapping[str, Request] = {}
        self._has_asked = False  # for them
        self._has_acted: set[str] = set()  # since prepare(), by runtime id

    def prepare(
        self, policies: Mapping[str, str], versions: Mapping[str, int], sequence: int
    ) -> Generator[None, None, None]:
        self._mailbox.enter(sequence)
        self._wanted = versions
        self.oldest = {runtime_id: versions[runtime_id] for runtime_id in policies}  # till it acts
        self._has_acted = set()
        return
        yield  # a generator, though it never waits

    def act(self, requests: Mapping[str, Request]) -> None:
        self._requests = requests
        self._has_asked = False

    def answers(self) -> dict[str, Answer] | None:
        mailbox = self._mailbox
        if mailbox.is_open:  # what is asked now, or what a predecessor asked before it was killed
            return None
        if not self._has_asked:
            for runtime_id, slot in mailbox.requests.items():
                write_request(slot, self._requests.get(self._seats[runtime_id]), self._wanted[runtime_id])
            mailbox.ask()
            self._has_asked = True
            return None
        self._row.add(step=1)
        answers = {}
        for runtime_id, player in self._seats.items():
            if player in self._requests:
                answers[player], version = read_answer(mailbox.answers[runtime_id])
                self.versions[player] = version
                if runtime_id not in self._has_acted:
                    self._has_acted.add(runtime_id)
                    self.oldest[runtime_id] = version
        return answers

    def finish(self, sequence: int) -> None:
        self._mailbox.enter(sequence + 1)

    def end(self, leg: int) -> Generator[None, None, None]:
        while self._mailbox.is_open:  # a predecessor's question is of this leg: the next one may have other policies
            yield
        self._mailbox.end(leg)
