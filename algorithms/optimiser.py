"""The optimiser step that the algorithms share: finite or not at all, clipped, fast for small networks."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop

Tensors: TypeAlias = list[torch.Tensor]
Group: TypeAlias = dict[str, Any]  # settings that parameters share


class _Optimiser(torch.optim.Optimizer):
    """torch's own computation of a step, without its class: that would import torch's compiler, which takes as long as
    torch itself. Subclasses say what they average and compute."""

    averages: ClassVar[tuple[str, ...]]  # what is kept for each parameter, of its shape

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have gradients."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in moving:
                if not self.state[parameter]:
                    # torch's fused kernels count steps where the parameter is, its others on the CPU
                    steps = torch.zeros((), device=parameter.device if group.get("fused") else None)
                    zeros = {name: torch.zeros_like(parameter) for name in self.averages}
                    self.state[parameter] = {"step": steps, **zeros}
            gradients = [parameter.grad for parameter in moving if parameter.grad is not None]
            averages = [[self.state[parameter][name] for parameter in moving] for name in self.averages]
            self._move(group, moving, gradients, averages, [self.state[parameter]["step"] for parameter in moving])

    @abstractmethod
    def _move(self, group: Group, moving: Tensors, gradients: Tensors, averages: list[Tensors], steps: Tensors) -> None:
        """Move parameters, their averages and the counts of steps in place; ``group`` has the learning rate."""


class Adam(_Optimiser):
    """Adam (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980) with the paper's betas and epsilon, in torch's fused
    form: for small networks on a CPU a third of the time of the others."""

    averages = ("exp_avg", "exp_avg_sq")

    def __init__(self, parameters: Sequence[torch.nn.Parameter], learning_rate: float) -> None:
        super().__init__(parameters, {"lr": learning_rate, "fused": True})

    def _move(self, group: Group, moving: Tensors, gradients: Tensors, averages: list[Tensors], steps: Tensors) -> None:
        means, squares = averages
        adam(
            moving, gradients, means, squares, [], steps,
            lr=group["lr"], beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
            amsgrad=False, maximize=False, fused=True,
        )  # fmt: skip


class RMSprop(_Optimiser):
    """RMSProp (Tieleman and Hinton 2012, lecture 6.5 of their course), with ``eps`` outside the root and no momentum.

    ``alpha`` is the share of the past in the mean of the squared gradients.
    """

    averages = ("square_avg",)

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], learning_rate: float, *, alpha: float, eps: float
    ) -> None:
        super().__init__(parameters, {"lr": learning_rate, "alpha": alpha, "eps": eps})

    def _move(self, group: Group, moving: Tensors, gradients: Tensors, averages: list[Tensors], steps: Tensors) -> None:
        (squares,) = averages
        rmsprop(
            moving, gradients, squares, [], [], steps,
            lr=group["lr"], alpha=group["alpha"], eps=group["eps"], weight_decay=0.0, momentum=0.0, centered=False,
        )  # fmt: skip


for _name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
    _method = getattr(torch.optim.Optimizer, _name)
    # what the guard that imports the compiler wraps
    setattr(_Optimiser, _name, getattr(_method, "__wrapped__", _method))


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
