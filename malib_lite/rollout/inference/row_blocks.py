"""One policy acts on many workers' rows at once, and each worker's rows draw from a random stream of their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_SIZES_FIRST = (torch.rand, torch.randn)  # take a size as numbers, too: torch.rand(2, 3)


class RowBlocks(TorchFunctionMode):
    """While it is active, what is drawn from ``generator`` for B rows is drawn block by block from ``generators``.

    So what the rows of a block draw does not depend on who else is in the batch: it is, to the bit, what a policy draws
    that acts on them alone and owns their generator. It holds for every function of torch that takes a generator, so
    no policy needs to know.
    """

    def __init__(self, generator: torch.Generator, generators: Sequence[torch.Generator], sizes: Sequence[int]) -> None:
        """
        Args:
            generator: stands for all of ``generators`` in a policy.
            sizes: rows of each block; B is their sum.
        """
        super().__init__()
        self._generator = generator
        self._generators = list(generators)
        self._bounds = [0, *itertools.accumulate(sizes)]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not self._generator:
            return func(*args, **kwargs)
        if func in _SIZES_FIRST and args and isinstance(args[0], int):
            args = (args,)
        blocks = []
        for generator, begin, end in zip(self._generators, self._bounds, self._bounds[1:], strict=False):
            own = {name: self._rows(value, begin, end) for name, value in kwargs.items()}
            block = func(*(self._rows(value, begin, end) for value in args), **{**own, "generator": generator})
            if block.dim() == 0 or len(block) != end - begin:
                raise ValueError(
                    f"{func.__name__} draws {tuple(block.shape)} numbers for {end - begin} observations: a policy must "
                    "draw for each of them, or be run with rollout.inference_server = 'local'"
                )
            blocks.append(block)
        return torch.cat(blocks)

    def _rows(self, value: Any, begin: int, end: int) -> Any:
        """A block's part of an argument: rows of a tensor with B of them, or a size whose first number is B."""
        total = self._bounds[-1]
        if isinstance(value, torch.Tensor):
            return value[begin:end] if value.dim() and len(value) == total else value
        if isinstance(value, (tuple, list)) and value and value[0] == total:
            return (end - begin, *value[1:])
        return value
