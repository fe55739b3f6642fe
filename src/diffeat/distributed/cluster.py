"""Workers that are actors of a Ray cluster: each holds a GPU, or a share of the processors of its machine.

Actors are used as they are, not through a data set: one that dies must tell which pictures it held, and a data set
either begins a lost actor's work anew for ever or fails as a whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from queue import SimpleQueue
from typing import Any, Self

import torch

from diffeat.backbones.files import said
from diffeat.distributed.schedule import DEPTH
from diffeat.distributed.worker import Hello, Lost, Order, Refused, Released, Task, Worker, cannot_be_sent, outcome
from diffeat.errors import InvalidValueError, ModelError, shown
from diffeat.extraction.filling import Row
from diffeat.features import FeatureMap, Source

_SECONDS = 1.0  # that one waits before it looks for an interrupt
_MEMORY = 100 << 20  # of the object store of a cluster of this machine: only rows travel


class RayHosts:
    """Actors; what they do is told by :class:`diffeat.distributed.workers.Hosts`.

    All machines must see the pictures, the model and the store under the paths that this process uses. Actors for which
    the cluster has no room yet are started when it has; others work meanwhile.

    Args:
        task: What each of the workers is to do.
        leave: Whether to leave the cluster at the end.
    """

    def __init__(self, task: Task, count: int, gpus: int = 0, *, leave: bool = False) -> None:
        self._ray: Any = import_module("ray")
        self.count = count
        self._task = task
        self._leave = leave
        # an actor that dies is not made anew by Ray: who held what is known here
        limits = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": DEPTH + 2}
        cpus = 1 if gpus else task.threads
        self._class = self._ray.remote(num_cpus=cpus, num_gpus=gpus, **limits)(_Actor)
        self._actors: dict[int, Any] = {}
        self._awaited: dict[Any, int] = {}

    @classmethod
    def join(
        cls,
        address: str,
        count: int | None,
        load: Callable[[], Source[FeatureMap]],
        device: torch.device | str | None = None,
    ) -> Self:
        """Join a cluster; arguments and errors as of :func:`~diffeat.distributed.start_workers`."""
        try:
            ray: Any = import_module("ray")
        except ImportError:
            raise ModelError('Ray is not installed: pip install "diffeat[ray]".') from None
        leave = not ray.is_initialized()
        if leave:
            own = {"include_dashboard": False, "object_store_memory": _MEMORY} if address == "local" else {}
            try:
                _reach(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
            except Exception as error:  # Ray raises all kinds
                raise ModelError(
                    f"There is no Ray cluster at {shown(address)} ({said(error)}). "
                    "`ray start --head` makes one; 'local' makes one for this run alone."
                ) from None
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if torch.device(device or "cuda").type == "cuda" else 0
        cpus = int(resources.get("CPU", 0))
        if not gpus and device is not None and torch.device(device).type != "cpu":
            raise InvalidValueError(f"The cluster at {shown(address)} has no GPU. Leave out --device {device}.")
        count = count or gpus or max(1, cpus)
        largest = max((int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"]), default=1)
        asked = os.environ.get("OMP_NUM_THREADS", "")  # as a process of this machine would take it
        threads = max(1, min(cpus // count, largest, int(asked) if asked.isdecimal() else largest))
        return cls(Task(load, threads), count, min(1, gpus), leave=leave)

    def start(self, number: int) -> None:
        self.stop(number)
        actor = self._actors[number] = self._class.remote()
        self._awaited[actor.hello.remote(self._task, os.getcwd())] = number

    def give(self, number: int, order: Order | None) -> None:
        actor = self._actors[number]
        try:
            self._awaited[actor.release.remote() if order is None else actor.work.remote(order)] = number
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise cannot_be_sent(order, error) from error

    def events(self) -> Iterator[tuple[int, object]]:
        ready: list[Any] = []
        while not ready:
            ready, _ = self._ray.wait(list(self._awaited), timeout=_SECONDS)
        for ref in ready:
            number = self._awaited.pop(ref)
            try:
                event = self._ray.get(ref)
            except self._ray.exceptions.RayActorError:
                event = Lost("its process was killed, for lack of memory perhaps, or its machine is lost")
            except Exception as error:
                event = outcome(error)
            if isinstance(event, Lost):
                self.stop(number)
            yield number, event

    def close(self) -> None:
        for number in list(self._actors):
            self.stop(number)

    def leave(self) -> None:
        """Leave the cluster, if it was joined for these workers."""
        if self._leave:
            self._ray.shutdown()

    def stop(self, number: int) -> None:
        actor = self._actors.pop(number, None)
        self._awaited = {ref: of for ref, of in self._awaited.items() if of != number}
        if actor is not None:
            with contextlib.suppress(Exception):  # it is gone
                self._ray.kill(actor)


def _reach(address: str) -> None:
    """Raise OSError at once where nobody listens at ``host:port``; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


class _Actor:
    """A worker; several calls wait in it at once, while one thread does their units."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._answers: dict[int, SimpleQueue[Any]] = {}
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def hello(self, task: Task, folder: str) -> Hello | Refused | Lost:
        """Load the model."""
        try:
            if not os.path.isdir(folder):
                raise ModelError(
                    f"{socket.gethostname()} has no folder {folder}: all machines of a cluster must see pictures, "
                    "models and store under the same paths."
                )
            os.chdir(folder)
            self._worker = Worker(task)
            return self._worker.hello()
        except Exception as error:
            return outcome(error)

    def work(self, order: Order) -> Row | Refused | Lost:
        answer = self._answers[order.unit.position] = SimpleQueue()
        self._orders.put(order)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
        return answer.get()

    def release(self) -> Released:
        self._orders.put(None)
        if self._thread is None:
            self._orders.get()
        else:
            self._thread.join()
            self._thread = None
        return Released()

    def _run(self) -> None:
        try:
            self._worker.work(self._orders, lambda row: self._answers.pop(row.position).put(row))
        except Exception as error:
            for answer in self._answers.values():
                answer.put(outcome(error))
