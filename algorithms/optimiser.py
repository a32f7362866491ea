"""The optimiser step that the algorithms share: finite or not at all, clipped, fast for small networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.optim.adam import adam


class Adam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980) with the paper's betas and epsilon.

    torch's own computation in its fused form, for small networks on a CPU a third of the time of the others; its class
    would import torch's compiler, which takes as long as torch itself.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], learning_rate: float) -> None:
        super().__init__(parameters, {"lr": learning_rate, "fused": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have gradients."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in moving:
                if not self.state[parameter]:
                    self.state[parameter] = {
                        "step": torch.zeros((), device=parameter.device),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }
            states = [self.state[parameter] for parameter in moving]
            adam(
                moving,
                [parameter.grad for parameter in moving if parameter.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=group["lr"], weight_decay=0.0, eps=1e-8,
                maximize=False,
            )  # fmt: skip


for _name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
    _method = getattr(torch.optim.Optimizer, _name)
    setattr(Adam, _name, getattr(_method, "__wrapped__", _method))  # what the guard that imports the compiler wraps


def finite(loss: torch.Tensor, name: str) -> float:
    """The value of a scalar ``loss``; FloatingPointError where it is not a number, before it spoils parameters."""
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{name}: the loss is {value}; look for NaN or infinity in rewards and observations, or lower learning_rate"
        )
    return value


def step(
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[torch.nn.Parameter],
    gradients: Sequence[torch.Tensor],
    max_norm: float,
    name: str,
) -> float:
    """One step along ``gradients``, scaled down to the total norm ``max_norm`` where they exceed it.

    Returns:
        The norm before scaling. FloatingPointError where it is not a number: nothing has changed then.
    """
    norm = torch.cat([g.reshape(-1) for g in gradients]).norm().item()
    if not math.isfinite(norm):
        raise FloatingPointError(f"{name}: the gradient's norm is {norm}; lower learning_rate or max_grad_norm")
    if norm > max_norm:
        gradients = [g * (max_norm / norm) for g in gradients]  # not in place: the caller's gradients stay his
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()
    for parameter in parameters:
        parameter.grad = None  # policies are copied and pickled; gradients must not travel along
    return norm
