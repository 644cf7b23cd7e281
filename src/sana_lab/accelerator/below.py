"""Operators that C++ calls by itself, where no function mode looks: inside the backward pass and scripted functions.

A `TorchDispatchMode` sees them, one level further down. It is on during such a call only, so that it costs nothing
elsewhere, and follows the tensors: what comes out lives where what went in lives. Python that the call calls in turn
(hooks, `Function.backward`, a checkpoint that computes again) finds the function mode on, as anywhere else.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode

from . import mismatch, precision, words
from .devices import CPU
from .ledger import MIXED, Ledger, storage_of, tensors_in, unwrapped


class Following(TorchDispatchMode):
    """Places the results of operators that C++ calls. Those of a handler pass: there `mode` is off, and books are kept.

    With `strict`, tensors of several devices are refused as CUDA does, except for those that the call itself made
    without saying where (TorchScript asks a tensor for its device in C++, and is told "CPU"): these go where they are
    used.
    """

    def __init__(self, ledger: Ledger, mode: TorchFunctionMode, strict: bool = False):
        """Keep books in `ledger` while `mode` is on."""
        super().__init__()
        self.ledger, self.mode, self.strict = ledger, mode, strict
        self.fresh: dict[int, weakref.ref] = {}
        self.refused: RuntimeError | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """PyTorch calls this in place of an operator."""
        kwargs = kwargs or {}
        if not is_on(self.mode):
            return func(*args, **kwargs)
        run = self._narrow if func.overloadpacket.__name__ in precision.PRODUCTS else self._run
        with torch._C.DisableTorchFunction():  # operators called from Python are for the mode, too
            return run(func, args, kwargs)

    @functools.cached_property
    def _narrow(self) -> Callable:
        return precision.wrap(self.ledger, self._run)

    def _run(self, func: Any, args: tuple, kwargs: dict) -> Any:
        ledger = self.ledger
        target = kwargs.get("device")
        if target is not None and torch.device(target).type == "cuda":
            target = ledger.devices.resolve(target)
            result = func(*args, **{**kwargs, "device": CPU})
            ledger.place_all(result, target.index)
            return result
        home = ledger.home((args, kwargs))
        if home == MIXED:
            return self._mixed(func, args, kwargs)
        result = func(*args, **kwargs)
        if home >= 0:
            ledger.place_all(result, home)
        elif self.strict:
            for tensor in tensors_in(result):
                if tensor.layout == torch.strided:
                    storage = storage_of(tensor)
                    self.fresh[storage._cdata] = weakref.ref(storage)
        return result

    def _mixed(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Run an operator on tensors of several devices; its results go to the first GPU among them."""
        ledger, given = self.ledger, tensors_in((args, kwargs))
        home = next(index for index in map(ledger.index_of, given) if index >= 0)
        if self.strict:
            for tensor in given:
                self.adopt(tensor, home)
            try:
                mismatch.settle_operator(func, args, kwargs, ledger.device_of)
            except RuntimeError as error:
                self.refused = error
                raise
        before = {storage_of(tensor)._cdata for tensor in map(unwrapped, given) if tensor.layout == torch.strided}
        result = func(*args, **kwargs)
        for tensor in tensors_in(result):
            if tensor.layout != torch.strided or storage_of(tensor)._cdata not in before:
                ledger.place(tensor, home)
        return result

    def adopt(self, tensor: torch.Tensor, index: int) -> None:
        """Say that `tensor` is on GPU `index`, if this call made it and has not placed it."""
        if self.fresh and index >= 0 and tensor.layout == torch.strided:
            made = self.fresh.get(storage_of(tensor)._cdata)
            if made is not None and made() is not None:
                self.ledger.place(tensor, index)

    def explain(self, error: RuntimeError) -> None:
        """Raise `error`, which TorchScript's interpreter made, with the words that it has lost on the way.

        Raises:
            RuntimeError: operators were refused, or the script moved a tensor in C++.
        """
        if self.refused is not None:
            raise RuntimeError(f"{str(error).rstrip()} {self.refused}") from None
        if "without ATen_cuda library" in str(error) or "not linked with support for cuda" in str(error):
            raise scripts_cannot_move() from None


def _moves_to_cpu(graph: Any) -> bool:
    """Whether a script says `.cpu()` or `.to("cpu")`, for which C++ does nothing, as it finds the tensor there."""
    if graph.findNode("aten::cpu") is not None:
        return True
    constants = [value.toIValue() for node in graph.findAllNodes("aten::to") for value in node.inputs()]
    return CPU in constants


def scripts_cannot_move() -> RuntimeError:
    """A scripted function that moves a tensor: to a GPU C++ needs the CUDA library, and to the CPU it sees no move."""
    return RuntimeError(
        "TorchScript on the virtual GPU cannot move a tensor by itself: its own code asks the CUDA library, "
        "which is not there. Move tensors outside of the scripted function, or run this on a real GPU."
    )


def is_on(mode: TorchFunctionMode) -> bool:
    """Whether `mode` sees this thread's calls: it does not inside its own handlers."""
    return any(other is mode for other in _get_current_function_mode_stack())


def switched_on(mode: TorchFunctionMode) -> contextlib.AbstractContextManager:
    """`mode`, entered if it is off."""
    return contextlib.nullcontext() if is_on(mode) else mode


# ---- the backward pass ---------------------------------------------------------------------------------------------


def engine(ledger: Ledger, mode: TorchFunctionMode, run: Callable) -> Callable:
    """`torch.autograd.graph._engine_run_backward`, here `run`, which `backward` and `grad` both end in."""

    @functools.wraps(run)
    def run_backward(outputs, gradients, keep_graph, create_graph, inputs, *args, **kwargs):
        if not ledger.devices.live or not ledger.blocks:
            return run(outputs, gradients, keep_graph, create_graph, inputs, *args, **kwargs)
        leaves = _leaves(outputs)
        with switched_on(mode):
            gradients = tuple(check_gradients(ledger, outputs, gradients))
        with switched_on(mode), Following(ledger, mode):
            results = run(outputs, gradients, keep_graph, create_graph, inputs, *args, **kwargs)
        with torch._C.DisableTorchFunction():
            for leaf in leaves:
                if leaf.grad is not None:
                    ledger.rehome(leaf.grad, ledger.index_of(leaf))
            for tensor, gradient in zip(inputs, results or (), strict=False):
                if isinstance(tensor, torch.Tensor) and gradient is not None:
                    ledger.rehome(gradient, ledger.index_of(tensor))
        return results

    return run_backward


def check_gradients(ledger: Ledger, outputs: Iterable[Any], gradients: Iterable[Any]) -> Iterator[Any]:
    """The gradients that a backward pass starts with: where their tensors are, 0-dim ones moved there.

    As `validate_outputs` does (torch/csrc/autograd/engine.cpp).

    Raises:
        RuntimeError: one is elsewhere.
    """
    for position, (output, gradient) in enumerate(zip(outputs, gradients, strict=True)):
        if isinstance(output, torch.Tensor) and isinstance(gradient, torch.Tensor):
            gradient = _moved_gradient(ledger, gradient, ledger.device_of(output), position)
        yield gradient


def _moved_gradient(
    ledger: Ledger, gradient: torch.Tensor, device: torch.device, position: int, function: str = ""
) -> torch.Tensor:
    found = ledger.device_of(gradient)
    if found == device:
        return gradient
    if gradient.dim():
        raise words.invalid_gradient(position, device, found, function)
    return gradient.to(device)


def _leaves(outputs: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors at the far end of an autograd graph: those that receive a gradient."""
    nodes = [getattr(output, "grad_fn", None) or getattr(output, "node", None) for output in outputs]
    nodes = [node for node in nodes if node is not None]
    seen, leaves = set(nodes), []
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):  # AccumulateGrad
            leaves.append(node.variable)
        before = {function for function, _ in node.next_functions if function is not None} - seen
        seen |= before
        nodes.extend(before)
    return leaves


def own_functions(ledger: Ledger, apply: Callable) -> Callable:
    """`torch.autograd.Function.apply`, here `apply`, which remembers where inputs and outputs live."""

    def apply_and_note(cls, *args, **kwargs):
        result = apply(cls, *args, **kwargs)
        if torch.is_grad_enabled() and ledger.devices.live:
            outputs = result if isinstance(result, tuple) else (result,)
            for output in outputs:
                node = output.grad_fn if isinstance(output, torch.Tensor) else None
                if isinstance(node, torch.autograd.function.BackwardCFunction):
                    node._virtual_homes = (_devices(ledger, args), _devices(ledger, outputs))
                    break
        return result

    return apply_and_note


def _devices(ledger: Ledger, values: tuple) -> list[torch.device | None]:
    return [ledger.device_of(value) if isinstance(value, torch.Tensor) else None for value in values]


def own_backward(ledger: Ledger, apply: Callable) -> Callable:
    """`BackwardCFunction.apply`, here `apply`: gradients come from the outputs' devices and go to the inputs'."""

    @functools.wraps(apply)
    def apply_and_check(self, *gradients):
        before, after = getattr(self, "_virtual_homes", (None, ()))
        if before is None or not ledger.devices.live:
            return apply(self, *gradients)
        for gradient, device in zip(gradients, after, strict=False):
            if isinstance(gradient, torch.Tensor) and device is not None and device.type == "cuda":
                ledger.place(gradient, device.index)
        results = apply(self, *gradients)
        several = isinstance(results, tuple)
        checked, position = list(results if several else (results,)), 0
        for i, (result, device) in enumerate(zip(checked, before, strict=False)):
            if device is None:
                continue
            if isinstance(result, torch.Tensor):
                checked[i] = _moved_gradient(ledger, result, device, position, self.name())
            position += 1
        return tuple(checked) if several else checked[0]

    return apply_and_check


def saving(ledger: Ledger, mode: TorchFunctionMode, init: Callable) -> Callable:
    """`saved_tensors_hooks.__init__`, here `init`: its hooks are called inside handlers, where the mode is off.

    A result is saved before its handler has noted where it lives, so that is noted here.
    """

    def with_mode(hook: Callable) -> Callable:
        @functools.wraps(hook)
        def called(value):
            if isinstance(value, torch.Tensor) and ledger.devices.live and not is_on(mode):
                _place_result(ledger, value)
            with switched_on(mode) if ledger.devices.live else contextlib.nullcontext():
                return hook(value)

        return called

    @functools.wraps(init)
    def __init__(self, pack_hook, unpack_hook):
        init(self, with_mode(pack_hook), with_mode(unpack_hook))

    return __init__


def _place_result(ledger: Ledger, tensor: torch.Tensor) -> None:
    """Say that `tensor` is on the GPU of the call that is being handled, if all that the call was given is there."""
    if ledger.index_of(tensor) >= 0:
        return
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != HANDLERS:
        frame = frame.f_back
    home = -1 if frame is None else frame.f_locals.get("home", -1)
    if home >= 0:
        with torch._C.DisableTorchFunction():
            ledger.place(tensor, home)


HANDLERS = str(pathlib.Path(__file__).with_name("handlers.py"))
"""Where calls are handled; `home` is the GPU on which all tensors of a call are."""


# ---- scripted and traced functions ---------------------------------------------------------------------------------


def scripted(ledger: Ledger, mode: TorchFunctionMode, call: Callable) -> Callable:
    """`__call__` of scripted functions and methods, here `call`, with its operators seen."""

    @functools.wraps(call)
    def call_and_follow(self, *args, **kwargs):
        if not ledger.devices.live or not is_on(mode):
            return call(self, *args, **kwargs)
        if ledger.home((args, kwargs)) >= 0 and _moves_to_cpu(self.inlined_graph):
            raise scripts_cannot_move()
        with Following(ledger, mode, strict=True) as following:
            try:
                result = call(self, *args, **kwargs)
            except RuntimeError as error:
                following.explain(error)
                raise
        home = ledger.home((args, kwargs))
        for tensor in tensors_in(result):
            following.adopt(tensor, home)
        return result

    return call_and_follow


def loaded(ledger: Ledger, load: Callable) -> Callable:
    """`torch.jit.load`, here `load`, with `map_location` on a GPU: loaded on the CPU and placed, constants included."""

    @functools.wraps(load)
    def load_and_place(f, map_location=None, *args, **kwargs):
        target = None if map_location is None else torch.device(map_location)
        if target is None or target.type != "cuda":
            return load(f, map_location, *args, **kwargs)
        index = ledger.devices.resolve(target).index
        module = load(f, CPU, *args, **kwargs)
        graph = module.inlined_graph
        constants = [node.t("value") for node in graph.findAllNodes("prim::Constant") if _is_tensor(node)]
        for tensor in [*module.parameters(), *module.buffers(), *constants]:
            ledger.place(tensor, index)
        return module

    return load_and_place


def _is_tensor(node: Any) -> bool:
    return node.hasAttribute("value") and node.kindOf("value") == "t"
