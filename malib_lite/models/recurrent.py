"""Recurrent cores: what a policy remembers, as one flat array per stream."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import nn


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
        self, features: torch.Tensor, state: torch.Tensor, resets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run over sequences in which episodes may begin anywhere.

        Args:
            features: (T, B, F) float32.
            state: (B, S) float32, before the first row.
            resets: (T, B) bool, True where an episode begins: what came before is forgotten there, whatever it was,
                and no gradient flows back beyond.

        Returns:
            Outputs (T, B, H) and the state after the last row (B, S).
        """
        outputs = []
        begins = (resets[1:].any(1).nonzero().flatten() + 1).tolist()
        for begin, end in pairwise([0, *begins, len(features)]):  # stretches without an episode's start inside
            state = state.masked_fill(resets[begin].unsqueeze(-1), 0.0)
            output, state = self._run(features[begin:end], state)
            outputs.append(output)
        return torch.cat(outputs), state

    def _run(self, features: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(self.rnn, nn.GRU):
            outputs, hidden = self.rnn(features, state.unsqueeze(0))
            return outputs, hidden.squeeze(0)
        hidden, cell = (part.unsqueeze(0).contiguous() for part in state.chunk(2, dim=-1))
        outputs, (hidden, cell) = self.rnn(features, (hidden, cell))
        return outputs, torch.cat([hidden, cell], -1).squeeze(0)
