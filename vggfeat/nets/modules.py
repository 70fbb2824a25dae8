"""Whether a net's modules are still those that it was built from."""

from __future__ import annotations

from torch import nn

HARMLESS = (nn.Sequential, nn.ReLU, nn.Dropout)
"""Modules whose settings change no value of a net in eval mode."""


def first_difference(net: nn.Module, usual: nn.Module, hooks: bool) -> str:
    """The first module or tensor in which a net differs from the usual one, in words; "" if there is none.

    hooks: a hook counts as a difference.
    """
    ours, theirs = ({name: tuple(one.shape) for name, one in each.state_dict().items()} for each in (net, usual))
    for name, shape in theirs.items():
        if ours.get(name, shape) != shape:
            return f"{name} has shape {ours[name]}, not {shape}; torch.save keeps the state dict of any net"
    own, built = dict(net.named_modules()), dict(usual.named_modules())
    for name in dict.fromkeys([*built, *own]):
        module, plain = own.get(name), built.get(name)
        if module is net:
            continue
        if module is None or plain is None or _told(module) != _told(plain):
            return f"{name} is {_words(module)}, not {_words(plain)}; torch.save keeps the state dict of any net"
        if hooks and (module._forward_hooks or module._forward_pre_hooks):
            return f"{name} has a hook, which would not run here: remove it"
    odd = sorted(set(ours) ^ set(theirs))
    return f"{odd[0]} is {'unexpected' if odd[0] in ours else 'missing'}" if odd else ""


def _told(module: nn.Module) -> tuple[type, str]:
    """What tells a module from another one of its place."""
    return type(module), "" if isinstance(module, HARMLESS) else repr(module)


def _words(module: nn.Module | None) -> str:
    return "missing" if module is None else repr(module).partition("\n")[0].removesuffix("(")
