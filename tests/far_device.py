"""A device that is not there, to see whether code keeps its tensors together: "far", wherever torch takes a device.

A tensor on it keeps one of the CPU inside, which does the work, so the numbers are the CPU's. What a GPU would refuse
is refused: tensors of both in one operation, but for single numbers of the CPU and copies from one to the other;
draws from a random stream of the CPU; and ``numpy()``. Stricter than a GPU in one thing: an index has to be on the
device, too.

torch knows the device for the rest of the process, but it can be used within :class:`FarDevice` alone.
"""

import torch
from torch.utils import backend_registration as registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
AVAILABLE = hasattr(registration, "_setup_privateuseone_for_python_backend")  # from torch 2.9 on

if AVAILABLE:

    class Unseeded(registration._DummyBackendModule):
        """No random streams: ``torch.random.fork_rng`` finds nothing to put aside."""

        def device_count(self):
            return 0

    registration._setup_privateuseone_for_python_backend("far", Unseeded())

    # torch has GPUs do these, of which the CPU knows nothing
    _library = torch.library.Library("aten", "IMPL")

    def gru_cell(of_input, of_hidden, hidden, input_bias, hidden_bias):
        in_reset, in_update, in_new = (of_input + input_bias).chunk(3, -1)
        to_reset, to_update, to_new = (of_hidden + hidden_bias).chunk(3, -1)
        update = (in_update + to_update).sigmoid()
        new = (in_new + (in_reset + to_reset).sigmoid() * to_new).tanh()
        return new + update * (hidden - new), of_input  # the second is for a backward pass that is not used

    def lstm_cell(of_input, of_hidden, cell, input_bias, hidden_bias):
        gates = (of_input + input_bias + of_hidden + hidden_bias).chunk(4, -1)
        cell = gates[1].sigmoid() * cell + gates[0].sigmoid() * gates[2].tanh()
        return gates[3].sigmoid() * cell.tanh(), cell, of_input

    _library.impl("_thnn_fused_gru_cell", gru_cell, "AutogradPrivateUse1")
    _library.impl("_thnn_fused_lstm_cell", lstm_cell, "AutogradPrivateUse1")


class FarTensor(torch.Tensor):
    """A tensor on the device; ``near`` has its numbers."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near):
        place = {"strides": near.stride(), "storage_offset": near.storage_offset()}
        far = torch.Tensor._make_wrapper_subclass(cls, near.size(), **place, dtype=near.dtype, device="far:0")
        far.near = near
        return far

    def __repr__(self):
        return f"far {self.near}"

    def tolist(self):
        return self.near.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


class FarDevice(TorchDispatchMode):
    """Within, tensors can be made on the device and moved to it."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


def run(operation, args, kwargs):
    """Have the CPU do an operation, and put the result where it belongs."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, FarTensor)]
    alien = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, FarTensor) and tensor.ndim]
    if far and alien and operation not in COPIES:
        raise RuntimeError(f"{operation}: tensors of {alien} are on the CPU, others are not")
    device = kwargs.get("device")
    is_far = bool(far) if device is None else torch.device(device).type == "far"
    if operation is torch.ops.aten.copy_.default:
        is_far = isinstance(args[0], FarTensor)
    if is_far and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{operation}: the generator is on the CPU, the result is not")
    near_args, near_kwargs = tree_map_only(FarTensor, lambda tensor: tensor.near, (args, kwargs))
    result = operation(*near_args, **near_kwargs if device is None else {**near_kwargs, "device": "cpu"})
    if not is_far:
        return result
    known = {id(tensor.near): tensor for tensor in far}  # what was changed in place stays the tensor it was

    def there(tensor):
        return known[id(tensor)] if id(tensor) in known else FarTensor(tensor)

    return tree_map_only(torch.Tensor, there, result)
