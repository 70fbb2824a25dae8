"""A double of CUDA and MPS: tensors of the CPU that carry a device's label, so that gradients and updates are computed.

FakeTensors know their device too, but hold no values, and autograd refuses them where there is no GPU.
"""

from __future__ import annotations

import contextlib

import torch
from torch.cuda.amp import common
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

CPU, MPS = torch.device("cpu"), torch.device("mps")


class LabelledDevice(TorchDispatchMode):
    """Inside it every operation checks that its tensors carry one label, in backward passes and optimisers too.

    As with CUDA, a tensor without dimensions may come from the CPU, and copying crosses devices. As with MPS, none of
    its tensors is float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self._labels: dict = {}
        """By storage; each is kept, so that no other one takes its place in memory."""
        self.backward = False
        self.launched: set = set()
        """Names of the operations that ran on another device than the CPU."""

    @classmethod
    def _should_skip_dynamo(cls):  # it takes seconds to import
        return False

    def of(self, tensor):
        """The label of a tensor; None for one that autograd itself made, which is right anywhere."""
        return self._labels.get(tensor.untyped_storage()._cdata, (CPU,))[0]

    def put(self, tensor, device):
        if device is not None and device.type == "mps" and tensor.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        storage = tensor.untyped_storage()
        self._labels[storage._cdata] = device, storage
        return tensor

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = CPU
        if kwargs.get("pin_memory"):  # takes a driver
            kwargs["pin_memory"] = False
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        inputs = {tensor.untyped_storage()._cdata for tensor in tensors}
        found = {self.of(tensor) for tensor in tensors if tensor.ndim or self.of(tensor) != CPU}
        labels = found - {None}
        copying = func in (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
        if len(labels) > 1 and not copying:
            raise RuntimeError(f"{func}: tensors on {' and '.join(sorted(map(str, labels)))}")
        if any(label != CPU for label in labels):
            self.launched.add(str(func))
        where = next(iter(labels or found), CPU)
        if asked is not None:
            where = None if self.backward and asked == CPU else asked
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in inputs:
                self.put(tensor, where)
        return out


class _Generator(torch.Generator):
    """The CPU's, for any device."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)


@contextlib.contextmanager
def labelled(monkeypatch):
    """A LabelledDevice with what asks the driver, or torch's C++ parts, answered by the labels."""
    mode = LabelledDevice()
    tensor, to, numpy, backward = torch.tensor, torch.Tensor.to, torch.Tensor.numpy, torch.Tensor.backward
    autocast = torch.autocast

    def moved(self, *args, **kwargs):
        copy = kwargs.pop("copy", False)
        if args and isinstance(args[0], torch.Tensor):
            args = (mode.of(args[0]), args[0].dtype)
        device, dtype, _, form = torch._C._nn._parse_to(*args, **kwargs)
        dtype, form = dtype or self.dtype, form or torch.preserve_format
        if device is None or device == mode.of(self):
            return to(self, dtype, copy=copy, memory_format=form)
        if MPS in (device, mode.of(self)) and dtype == torch.float64:
            mode.put(torch.empty(0, dtype=dtype), MPS)  # it casts before it copies
        with _disable_current_modes():
            there = to(self, dtype, copy=True, memory_format=form)
        return mode.put(there, device)

    def made(*args, device=None, **kwargs):  # torch.tensor copies to the device where no mode sees it
        return moved(tensor(*args, **kwargs), device or CPU)

    def as_array(self, *args, **kwargs):
        if mode.of(self) not in (CPU, None):
            raise TypeError("can't convert a CUDA tensor to numpy")
        return numpy(self, *args, **kwargs)

    def cast_as_here(device_type, dtype=None, **options):  # torch's follows the kind of the tensors, not their label
        return autocast("cpu", dtype=dtype, **options)

    def differentiated(self, *args, **kwargs):
        mode.backward = True
        try:
            backward(self, *args, **kwargs)
        finally:
            mode.backward = False

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "device", property(lambda self: mode.of(self) or CPU), raising=False)
        patch.setattr(torch, "tensor", made)
        patch.setattr(torch.Tensor, "to", moved)
        patch.setattr(torch.Tensor, "cpu", lambda self: moved(self, "cpu"))
        patch.setattr(torch.Tensor, "numpy", as_array)
        patch.setattr(torch.Tensor, "backward", differentiated)
        patch.setattr(torch.Tensor, "pin_memory", lambda self, *args: self)
        patch.setattr(torch, "autocast", cast_as_here)
        patch.setattr(common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.mps, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 30, 8 << 30))
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch, "Generator", _Generator)
        with mode:
            yield mode
