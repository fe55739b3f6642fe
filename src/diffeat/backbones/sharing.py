"""One model in several threads: whose calls a hook sees, and who may change the model for a while.

Modules belong to all threads of a process, and with them their hooks and whatever an adapter does to them.

* A hook of :class:`Hooks` acts in the context (thread or task) that owns it; the calls of others go by untouched.
* :func:`alone` with a model one may change it: calls that run in other threads end first, and calls that begin wait
  until it is put back. Reading alone never makes anybody wait.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.hooks import RemovableHandle

from diffeat.ambient import neutral
from diffeat.backbones.wrappers import inside, unwrapped

_ACTING: ContextVar[frozenset[Hooks]] = ContextVar("hooks that act", default=frozenset())

#: Ways into a model; what is called through them may be waited for, and made to wait.
_WAYS_IN = ("forward", "encode", "decode")


class Hooks:
    """Hooks on modules that see the calls of one context, while :meth:`acting`.

    Torch reads the hooks of a module and how each wants to be called one after the other, so a hook that another
    thread adds or removes meanwhile may be called with an argument less: it then does nothing.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._around: list[AbstractContextManager[object]] = []

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Calls of this context are seen until the block ends."""
        if self in _ACTING.get():
            yield
            return
        _ACTING.set(_ACTING.get() | {self})
        try:
            yield
        finally:
            _ACTING.set(_ACTING.get() - {self})

    def before(
        self, module: nn.Module, see: Callable[[tuple[Any, ...], dict[str, Any]], None], first: bool = False
    ) -> None:
        """Show the arguments of a module's calls."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            if kwargs is not None and self in _ACTING.get():
                see(args, kwargs)

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True, prepend=first))

    def after(self, module: nn.Module, see: Callable[[tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        """Show the arguments and the output of a module's calls."""

        def hook(_: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
            if len(rest) == 2 and self in _ACTING.get():
                see(args, *rest)

        self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def around(self, module: nn.Module, make: Callable[[], AbstractContextManager[object]]) -> None:
        """Be in the context that ``make`` gives while a module runs."""

        def enter(*_: object) -> None:
            context = make()
            context.__enter__()
            self._around.append(context)

        self.before(module, enter)
        self.after(module, lambda *_: self.leave(1))

    def leave(self, most: int | None = None) -> None:
        """Leave the contexts of modules that are over, or that did not come to their end."""
        for context in reversed(self._around[-(most or 0) :]):
            self._around.remove(context)
            context.__exit__(None, None, None)

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.leave()


class _Loan:
    """Who uses a model: several threads as it is, or one that changes it."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._users: Counter[int] = Counter()
        self._owner: int | None = None
        self._queue = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        me = threading.get_ident()
        with self._turn:
            self._turn.wait_for(
                lambda: me == self._owner or me in self._users or (self._owner is None and not self._queue)
            )
            self._users[me] += 1
        try:
            yield
        finally:
            with self._turn:
                self._users[me] -= 1
                self._users += Counter()  # forgets who has none
                self._turn.notify_all()

    @contextmanager
    def alone(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        me = threading.get_ident()
        with self._turn:
            self._queue += 1
            try:
                self._turn.wait_for(lambda: self._owner in (None, me) and not self._users.keys() - {me})
            finally:
                self._queue -= 1
                self._turn.notify_all()
            before, self._owner = self._owner, me
        try:
            with nullcontext() if before == me else self._guarded(modules):
                yield
        finally:
            with self._turn:
                self._owner = before
                self._turn.notify_all()

    @contextmanager
    def _guarded(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Calls of other threads wait; those that run already are waited for."""
        with ExitStack() as stack:
            for module in modules:
                for name in _WAYS_IN:
                    if hasattr(module, name):
                        stack.enter_context(_instead(module, name, _waiting(self, getattr(module, name))))
            seen: dict[FrameType, bool] = {}
            while _called_elsewhere(modules, seen):
                time.sleep(0.001)
            seen.clear()
            yield


def _waiting(loan: _Loan, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def diffeat_waits(*args: Any, **kwargs: Any) -> Any:
        with loan.shared():
            return call(*args, **kwargs)

    return diffeat_waits


@contextmanager
def _instead(module: nn.Module, name: str, call: Callable[..., Any]) -> Iterator[None]:
    attributes = vars(module)
    there, before = name in attributes, attributes.get(name)
    attributes[name] = call
    try:
        yield
    finally:
        if there:
            attributes[name] = before
        else:
            del attributes[name]


def _called_elsewhere(modules: Sequence[nn.Module], seen: dict[FrameType, bool]) -> bool:
    """Whether another thread is inside a call of one of the modules that it began before they were guarded.

    Python up to 3.12 copies the variables of a frame when they are asked for. Were its thread to run meanwhile, which
    it can while something is freed, the copy would read what is no longer there: so garbage waits, and no frame is
    asked twice, which would free what its variables were before.

    Args:
        seen: By frame, whether it is such a call; grows.
    """
    me, collects = threading.get_ident(), gc.isenabled()
    gc.disable()
    try:
        return any(_runs(f, modules, seen) for thread, f in sys._current_frames().items() if thread != me)
    finally:
        if collects:
            gc.enable()


def _runs(frame: FrameType | None, modules: Sequence[nn.Module], seen: dict[FrameType, bool]) -> bool:
    calls: list[FrameType] = []
    while frame is not None and frame.f_code.co_name != "diffeat_waits":
        if frame.f_code.co_name in ("_call_impl", *_WAYS_IN):
            calls.append(frame)
        frame = frame.f_back
    for call in reversed(calls):  # the first to be called is the likeliest
        if call not in seen:
            own = call.f_locals.get("self")
            seen[call] = any(own is module for module in modules)
        if seen[call]:
            return True
    return False


_LOANS: WeakKeyDictionary[nn.Module, _Loan] = WeakKeyDictionary()
_LOCK = threading.Lock()


def _loan(module: nn.Module) -> _Loan:
    with _LOCK:
        return _LOANS.setdefault(unwrapped(module), _Loan())


def shared(module: nn.Module) -> AbstractContextManager[None]:
    """The model as it is: nobody changes it meanwhile."""
    return _loan(module).shared()


def alone(*modules: nn.Module) -> AbstractContextManager[None]:
    """The model, known by the first of its networks, to change these: nobody else uses them meanwhile."""
    return _loan(modules[0]).alone(modules)


_READY: ContextVar[frozenset[nn.Module]] = ContextVar("models that are ready", default=frozenset())


@contextmanager
def ready(*modules: nn.Module) -> Iterator[None]:
    """Networks without dropout and torch as it comes, whatever they and the process are set to.

    A model in training mode is changed for the while, so others wait.
    """
    if modules[0] in _READY.get():
        yield
        return
    with shared(modules[0]):
        training = [module for module in inside(*modules) if module.training]
    with neutral(), alone(*modules) if training else nullcontext():
        _set_training(training, False)
        before = _READY.set(_READY.get() | {modules[0]})
        try:
            yield
        finally:
            _READY.reset(before)
            _set_training(training, True)


def _set_training(modules: Sequence[nn.Module], training: bool) -> None:
    for module in modules:
        module.training = training
