"""What every operator's registration shares: autocast, vmap, autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch

SEGMENTS_INSTEAD = "give the samples segment ids of their own and call it once"


def float32_under_autocast(name: str) -> None:
    """Under autocast the operator gets its half inputs as float32: IoUs, thresholds and ranks are no place to round."""
    for device_type in ("cpu", "cuda"):
        torch.library.register_autocast(f"mlc_ext::{name}", device_type, torch.float32)


def refuse_vmap(name: str, instead: str) -> Callable:
    """No batching rule, and not torch's either (one call a sample, or an obscure error): vmap over the operator raises
    a NotImplementedError that says what to do `instead`. Returns the function that raises it."""

    def refuse(info, in_dims, *args):
        raise NotImplementedError(f"{name}: vmap is not supported; {instead}")

    torch.library.register_vmap(f"mlc_ext::{name}", refuse)
    return refuse


def differentiable(name: str, setup_context: Callable, backward: Callable, *, instead_of_vmap: str) -> Callable:
    """Registers the operator's gradient, and refuses vmap. -> the operator as Python calls it.

    Under torch.func and forward-mode differentiation that is an autograd.Function around it: there torch refuses a
    registered gradient in grad and vjp, and without an error takes its forward-mode derivative for 0.
    """
    op = getattr(torch.ops.mlc_ext, name)
    torch.library.register_autograd(f"mlc_ext::{name}", backward, setup_context=setup_context)

    def forward(*args):
        return op(*args)

    def jvp(ctx, *tangents):
        raise NotImplementedError(f"{name}: forward-mode differentiation is not provided; use reverse mode")

    methods = {
        "forward": forward,
        "setup_context": setup_context,
        "backward": backward,
        "jvp": jvp,
        "vmap": refuse_vmap(name, instead_of_vmap),
    }
    function = type(name, (torch.autograd.Function,), {key: staticmethod(value) for key, value in methods.items()})

    def call(*args):
        if not _is_transformed():  # the Function would cost 40 us a call
            return op(*args)
        if torch.compiler.is_compiling():
            raise NotImplementedError(f"{name}: torch.func and forward mode are not supported under torch.compile")
        return function.apply(*args)

    return call


def gradient_of(name: str) -> Callable:
    """Registers the operator `name`_backward, which has no gradient of its own. -> it, as Python calls it."""

    def setup_context(ctx, inputs, output):
        pass

    def refuse(ctx, *grads):
        raise NotImplementedError(f"{name}: double backward is not provided")

    return differentiable(f"{name}_backward", setup_context, refuse, instead_of_vmap="take one gradient at a time")


def differentiable_loss(name: str) -> Callable:
    """:func:`differentiable` for the loss `name`(input, two tensors, options): the input alone has a gradient, which
    `name`_backward(grad, input, two tensors, options) computes."""
    backward_op = gradient_of(name)

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.options = inputs[3:]

    def backward(ctx, grad):
        gradient = backward_op(grad, *ctx.saved_tensors, *ctx.options)
        return gradient, None, None, *(None for _ in ctx.options)

    return differentiable(name, setup_context, backward, instead_of_vmap="flatten the samples' rows into one call")


def _is_transformed() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, is in force."""
    return _functorch_is_active() or getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0


# private names of torch: without them a transform is met by the dispatcher's own, obscurer words
_functorch_is_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
