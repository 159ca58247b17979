"""A pretended GPU: its tensors are the processor's, and what CUDA refuses is refused.

Run inside ``with pretended_gpu.Mode():``, in a process of its own with ACCELERATE_TORCH_DEVICE=gpu:0. Every operation
gives the processor's result to the bit, while an operation on tensors of two devices raises, and so does NumPy's look
into a tensor that was not copied first. Of autocast nothing is pretended.

It rests on PyTorch's backends written in Python, an interface that PyTorch calls experimental.
"""

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

waits: Counter[str] = Counter()
"""Times that the host has waited for the device, by the line of the project that did."""
PROJECT = Path(__file__).parent.parent / "fade_study"
SCALARS_REFUSED = {"stack", "cat", "index_put_", "dot", "_fused_adam_"}
"""Other operations take a number on the processor beside tensors on the device."""
OWN_OUTPUTS = ("_fused", "_foreach")
"""How the names begin of operations that return what they were given."""
WAITING = {"nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive"}
"""Operations with results of a size that the host has to learn from the device."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
aten = torch.ops.aten


class _Backend(backend_registration._DummyBackendModule):
    def get_rng_state(self, device=0):
        return torch.get_rng_state()

    def set_rng_state(self, state, device=0):
        pass

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]

    def device_count(self):
        return 1

    def synchronize(self, *_):
        pass

    def empty_cache(self):
        pass

    def set_device(self, device):
        pass


backend_registration._setup_privateuseone_for_python_backend("gpu", backend_module=_Backend())
DEVICE = torch.device("gpu:0")


class Pretended(torch.Tensor):
    """A tensor on the pretended GPU: the shell of one on the processor."""

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), **layout, device=DEVICE)

    def __init__(self, inner):
        self.real_ = inner

    def tolist(self):
        return self.detach().to("cpu").tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert a tensor of the pretended GPU to numpy; copy it to the processor first")

    def __repr__(self, **_):
        return f"Pretended({self.real_!r})"

    def __reduce_ex__(self, protocol):
        return self.real_.detach().clone().__reduce_ex__(protocol)  # by value, as checkpoints are loaded

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class Mode(TorchDispatchMode):
    """Within it, tensors can be made on the pretended GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _inner(value):
    return value.real_ if isinstance(value, Pretended) else value


def _wait():
    lines = [f for f in traceback.extract_stack() if PROJECT in Path(f.filename).parents]
    place = f"{Path(lines[-1].filename).name}:{lines[-1].name}" if lines else "elsewhere"
    if place != "data.py:to":  # a process copies a whole data set once, for all of its trainings
        waits[place] += 1


def _waits_for(index):
    """Whether a tensor has to be copied to the device, or counted there, before it can be an index."""
    return index is not None and (not isinstance(index, Pretended) or index.dtype in (torch.bool, torch.uint8))


def _run(function, args, kwargs):
    name = function._schema.name.split("::")[1]
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    inner_args, inner_kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
    if device == "gpu":
        inner_kwargs |= {"device": "cpu", **({"pin_memory": None} if "pin_memory" in kwargs else {})}
    if function is aten._local_scalar_dense.default or name in ("is_nonzero", "equal"):
        if there:
            _wait()
        return function(*inner_args, **inner_kwargs)
    if function is aten._to_copy.default:
        inner_kwargs.pop("device", None)
        copy = function(*inner_args, **inner_kwargs)
        target = device or ("gpu" if there else "cpu")
        if (there and target == "cpu") or (not there and target == "gpu" and not kwargs.get("non_blocking")):
            _wait()
        return Pretended(copy) if target == "gpu" else copy
    if function is aten.copy_.default:
        blocking = len(args) < 3 or not args[2]
        if there and (not isinstance(args[0], Pretended) or (not isinstance(args[1], Pretended) and blocking)):
            _wait()
        _inner(args[0]).copy_(_inner(args[1]))
        return args[0]
    if not there and device != "gpu":
        return function(*args, **kwargs)
    for tensor in tensors if there else ():
        alone = tensor.dim() == 0 and name not in SCALARS_REFUSED
        if not isinstance(tensor, Pretended) and not alone and not name.startswith("index"):
            devices = [(tuple(one.shape), str(one.device)) for one in tensors]
            raise RuntimeError(f"expected all tensors of {name} on one device, got {devices}")
    if there and (name in WAITING or (name in INDEXING and any(map(_waits_for, args[1])))):
        _wait()
    result = function(*inner_args, **inner_kwargs)
    changed = {id(tensor.real_): tensor for tensor in there}

    def shell(value):
        if not isinstance(value, torch.Tensor) or isinstance(value, Pretended):
            return value
        return changed[id(value)] if id(value) in changed else Pretended(value)

    result = result if device == "cpu" else tree_map(shell, result)
    if not there or name.startswith(OWN_OUTPUTS):
        return result
    return return_and_correct_aliasing(function, args, kwargs, result)
