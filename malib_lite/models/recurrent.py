"""Memory: what a policy keeps in mind of an episode, as one flat array per stream."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from malib_lite.config import PositiveInt, config, option
from malib_lite.models.nets import NetConfig, make_encoder


@config
class MemoryConfig(NetConfig):
    """A network that may remember what it saw."""

    memory: Literal["none", "gru", "lstm"] = option("none", "what observations pass before the rest of the network")
    memory_size: PositiveInt = option(64, "units of the memory")


ConfigT = TypeVar("ConfigT", bound=MemoryConfig)


class Memory(nn.Module, Generic[ConfigT]):
    """What an agent sees, with what it remembers of its episode: all that the rest of a network is shown.

    The rest of the network is made for :attr:`space` with :attr:`settings`::

        memory = Memory(observation_space, settings)
        net = make_net(memory.space, num_actions, memory.settings, output_gain=1.0)
        features, hidden_state = memory.step(observation, hidden_state)
        q = net(features)

    Where the settings ask for none, observations pass unchanged and ``size`` is 0.
    """

    def __init__(self, observation_space: spaces.Space, settings: ConfigT) -> None:
        super().__init__()
        self.space, self.settings, self.size = observation_space, settings, 0
        self.core: RecurrentCore | None = None
        if settings.memory == "none":
            return
        self.encoder = make_encoder(observation_space, settings)
        self.core = RecurrentCore(self.encoder.num_features, settings.memory_size, settings.memory)
        self.size = self.core.state_size
        self.space = spaces.Box(-np.inf, np.inf, (settings.memory_size,), np.float32)
        self.settings = dataclasses.replace(settings, images="auto")  # the encoder has dealt with them

    def step(
        self, observation: torch.Tensor, hidden_state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features (B, ...) of observations (B, *obs), and the next state; None is one's at an episode's beginning."""
        if self.core is None:
            return observation, hidden_state
        state = self.core.initial_state(len(observation)) if hidden_state is None else hidden_state
        return self.core.step(self.encoder(observation), state)

    def forward(
        self,
        observation: torch.Tensor,
        hidden_state: torch.Tensor,
        begins: torch.Tensor,
        acting: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Features (L, B, ...) of B sequences of L observations, as they were when acting step by step.

        Args:
            observation: (L, B, *obs).
            hidden_state: (B, size) float32, before the first.
            begins: (L, B) bool, where an episode begins.
            acting: (L, B) bool, what there was to see; the other rows mean nothing and leave no trace. None: all.
        """
        if self.core is None:
            return observation
        if acting is not None:
            rows = acting.view(*acting.shape, *(1,) * (observation.ndim - 2))
            observation = torch.where(rows, observation, observation.new_zeros(()))
        features = self.encoder(observation.flatten(0, 1)).view(*observation.shape[:2], -1)
        return self.core(features, hidden_state, begins, acting)[0]


class MemoryNet(nn.Module):
    """A memory and the network behind it, as one: what is copied for targets and averages."""

    def __init__(self, memory: Memory[Any], net: nn.Module) -> None:
        super().__init__()
        self.memory = memory
        self.net = net

    def step(
        self, observation: torch.Tensor, hidden_state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Outputs (B, ...) for observations (B, *obs), and the next state."""
        features, hidden_state = self.memory.step(observation, hidden_state)
        return self.net(features), hidden_state

    def forward(
        self,
        observation: torch.Tensor,
        hidden_state: torch.Tensor,
        begins: torch.Tensor,
        acting: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Outputs (L, B, ...); arguments as those of :class:`Memory`."""
        features = self.memory(observation, hidden_state, begins, acting)
        output: torch.Tensor = self.net(features.flatten(0, 1))
        return output.view(*features.shape[:2], *output.shape[1:])


class RecurrentCore(nn.Module):
    """A GRU (Cho et al. 2014, https://arxiv.org/abs/1406.1078) or an LSTM (Hochreiter and Schmidhuber 1997).

    Acting goes step by step, learning over whole sequences; both give the same outputs::

        state = core.initial_state(batch)               # (B, S), recorded where a fragment starts
        output, state = core.step(features_t, state)    # (B, F) -> (B, H)
        outputs, state = core(features, state, resets)  # (T, B, F) -> (T, B, H)

    ``S = state_size`` is H for a GRU; for an LSTM it is 2 H, its hidden state beside its cell.
    """

    def __init__(self, num_features: int, hidden_size: int, kind: Literal["gru", "lstm"] = "gru") -> None:
        """
        Args:
            num_features: F, width of the inputs.
            hidden_size: H, width of the outputs.
        """
        super().__init__()
        self.rnn: nn.GRU | nn.LSTM = {"gru": nn.GRU, "lstm": nn.LSTM}[kind](num_features, hidden_size)
        self.state_size = hidden_size if kind == "gru" else 2 * hidden_size
        for name, parameter in self.rnn.named_parameters():  # as in make_net; torch's defaults forget sooner
            nn.init.orthogonal_(parameter) if "weight" in name else nn.init.zeros_(parameter)

    def initial_state(self, batch: int) -> torch.Tensor:
        """What is remembered before the first step of an episode: nothing. (B, S) float32."""
        return torch.zeros(batch, self.state_size, device=next(self.parameters()).device)

    def step(self, features: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs (B, H) and the next state (B, S) from features (B, F) float32 and a state (B, S) float32."""
        outputs, state = self._run(features.unsqueeze(0), state)
        return outputs.squeeze(0), state

    def forward(
        self, features: torch.Tensor, state: torch.Tensor, resets: torch.Tensor, acting: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run over sequences in which episodes may begin anywhere.

        Args:
            features: (T, B, F) float32.
            state: (B, S) float32, before the first row.
            resets: (T, B) bool, True where an episode begins: what came before is forgotten there, whatever it was,
                and no gradient flows back beyond.
            acting: (T, B) bool, False where nothing happens: the state stays, features and outputs mean nothing there.
                None: everywhere.

        Returns:
            Outputs (T, B, H) and the state after the last row (B, S).
        """
        if acting is not None and not acting.all():
            return self._skip(features.masked_fill(~acting.unsqueeze(-1), 0.0), state, resets, acting)
        outputs = []
        begins = (resets[1:].any(1).nonzero().flatten() + 1).tolist()
        for begin, end in pairwise([0, *begins, len(features)]):  # stretches without an episode's start inside
            state = state.masked_fill(resets[begin].unsqueeze(-1), 0.0)
            output, state = self._run(features[begin:end], state)
            outputs.append(output)
        return torch.cat(outputs), state

    def _skip(
        self, features: torch.Tensor, state: torch.Tensor, resets: torch.Tensor, acting: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same row by row; states of those who do not act are carried over."""
        outputs = []
        for row, begins, here in zip(features, resets, acting, strict=True):
            state = state.masked_fill(begins.unsqueeze(-1), 0.0)
            output, new = self.step(row, state)
            state = torch.where(here.unsqueeze(-1), new, state)
            outputs.append(output)
        return torch.stack(outputs), state

    def _run(self, features: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(self.rnn, nn.GRU):
            outputs, hidden = self.rnn(features, state.unsqueeze(0))
            return outputs, hidden.squeeze(0)
        hidden, cell = (part.unsqueeze(0).contiguous() for part in state.chunk(2, dim=-1))
        outputs, (hidden, cell) = self.rnn(features, (hidden, cell))
        return outputs, torch.cat([hidden, cell], -1).squeeze(0)
