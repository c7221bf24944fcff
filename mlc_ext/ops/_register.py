"""Registration that operators share: autocast, vmap, autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])

SEGMENTS_INSTEAD = "give the samples segment ids of their own and call it once"


def fake_of(name: str) -> Callable[[_Function], _Function]:
    """Registers the decorated function as the operator's fake kernel, which gives shapes without data."""

    def register(function: _Function) -> _Function:
        torch.library.register_fake(f"mlc_ext::{name}", function)
        return function

    return register


def float32_under_autocast(name: str) -> None:
    """Under autocast the operator gets half-precision inputs as float32, because it compares values."""
    for device_type in ("cpu", "cuda"):
        torch.library.register_autocast(f"mlc_ext::{name}", device_type, torch.float32)


def refuse_vmap(name: str, instead: str) -> Callable[..., Any]:
    """Registers a function that raises NotImplementedError, with the text `instead`, as the operator's vmap rule, and
    returns it. torch's own rule is one call per sample, or an unclear error."""

    def refuse(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError(f"{name}: vmap is not supported; {instead}")

    torch.library.register_vmap(f"mlc_ext::{name}", refuse)
    return refuse


def without_gradient(name: str, *, instead_of_vmap: str) -> None:
    """Registers what an operator on constants needs: float32 under autocast, and no vmap."""
    float32_under_autocast(name)
    refuse_vmap(name, instead_of_vmap)


def differentiable(
    name: str,
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., Any],
    *,
    instead_of_vmap: str,
) -> Callable[..., Any]:
    """Registers the operator's gradient, and refuses vmap. Returns the function that calls the operator.

    Under torch.func and forward-mode differentiation it calls an autograd.Function around the operator: there torch
    refuses a registered gradient in grad and vjp, and takes its forward-mode derivative for 0 without an error.
    """
    op = getattr(torch.ops.mlc_ext, name)
    torch.library.register_autograd(f"mlc_ext::{name}", backward, setup_context=setup_context)

    def forward(*args: Any) -> Any:
        return op(*args)

    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(f"{name}: forward-mode differentiation is not provided; use reverse mode")

    methods = {
        "forward": forward,
        "setup_context": setup_context,
        "backward": backward,
        "jvp": jvp,
        "vmap": refuse_vmap(name, instead_of_vmap),
    }
    function: Any = type(name, (torch.autograd.Function,), {key: staticmethod(value) for key, value in methods.items()})

    def call(*args: Any) -> Any:
        if not _is_transformed():  # the Function would cost 40 us per call
            return op(*args)
        if torch.compiler.is_compiling():
            raise NotImplementedError(f"{name}: torch.func and forward mode are not supported under torch.compile")
        return function.apply(*args)

    return call


def gradient_of(name: str) -> Callable[..., Any]:
    """Registers the operator `name`_backward, which has no gradient. Returns the function that calls it."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    def refuse(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(f"{name}: double backward is not provided")

    return differentiable(f"{name}_backward", setup_context, refuse, instead_of_vmap="take one gradient at a time")


def differentiable_loss(name: str) -> Callable[..., Tensor]:
    """:func:`differentiable` for the loss `name`(input, two tensors, options): the input alone has a gradient, which
    `name`_backward(grad, input, two tensors, options) computes."""
    backward_op = gradient_of(name)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.options = inputs[3:]

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        gradient = backward_op(grad, *ctx.saved_tensors, *ctx.options)
        return gradient, None, None, *(None for _ in ctx.options)

    return differentiable(name, setup_context, backward, instead_of_vmap="flatten the samples' rows into one call")


def _is_transformed() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, is in force."""
    return bool(_functorch_is_active()) or getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0


# private names of torch; where they are missing, the dispatcher raises an error of its own under a transform
_functorch_is_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
