"""Mixers: what a team's action is worth, from what its agents' own actions are worth to them."""

from __future__ import annotations

import torch
from torch import nn


class SumMixer(nn.Module):
    """Q_tot = sum_n Q_n, Sunehag et al. 2018 (https://arxiv.org/abs/1706.05296), whatever the state."""

    def forward(self, q: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Q_tot (B,) float32, of the agents' values (B, N) float32; the state (B, S) is of no consequence."""
        return q.sum(-1)


class MonotonicMixer(nn.Module):
    """The mixing network of Rashid et al. 2018, section 4 and figure 2 (https://arxiv.org/abs/1803.11485).

    Its weights are made of the state by hypernetworks, and are not negative: Q_tot falls with no agent's value
    (equation 5), and so the agents' own best actions together are the team's best (equation 4). The biases are made of
    the state, too, but may be negative. Layers begin as torch makes them: with biases of zero, a state of zeros would
    make weights of zero, which have no gradient.

    Deviation: the last layer takes a mean over the M hidden units where the paper has a sum. What can be learnt is the
    same, but the sum begins with dQ_tot/dQ_n of about 5 and moves M times as far with each step of Adam; followed by
    its own target, it then runs away.
    """

    def __init__(self, num_agents: int, state_size: int, num_units: int = 32) -> None:
        """
        Args:
            num_agents: N.
            state_size: S.
            num_units: M, of the mixing network's one hidden layer, and of the hypernetwork that makes the last bias.
        """
        super().__init__()
        self.num_agents, self.num_units = num_agents, num_units
        self.weight_1 = nn.Linear(state_size, num_agents * num_units)
        self.bias_1 = nn.Linear(state_size, num_units)
        self.weight_2 = nn.Linear(state_size, num_units)
        self.bias_2 = nn.Sequential(nn.Linear(state_size, num_units), nn.ReLU(), nn.Linear(num_units, 1))

    def forward(self, q: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Q_tot (B,) float32, of the agents' values (B, N) float32 and the state (B, S) float32."""
        weight_1 = self.weight_1(state).abs().view(-1, self.num_agents, self.num_units)  # (B, N, M)
        weight_2 = self.weight_2(state).abs()  # (B, M)
        hidden = nn.functional.elu(torch.einsum("bn,bnm->bm", q, weight_1) + self.bias_1(state))  # (B, M)
        return (hidden * weight_2).mean(-1) + self.bias_2(state).squeeze(-1)
