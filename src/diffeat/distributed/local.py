"""Workers that are processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import NamedTuple

from diffeat.distributed.worker import Lost, Order, Released, Task, Worker, cannot_be_sent, outcome
from diffeat.unheard import give_again

#: Processes begin empty, so that no device and no thread is taken over; on Linux with PyTorch imported by then.
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_SECONDS = 10  # for a worker to end what it writes


class _Process(NamedTuple):
    process: BaseProcess
    pipe: Connection


class LocalHosts:
    """Processes, one for each task; what they do is told by :class:`diffeat.distributed.workers.Hosts`."""

    def __init__(self, tasks: list[Task]) -> None:
        self.count = len(tasks)
        self._tasks = tasks
        self._running: dict[int, _Process] = {}

    def start(self, number: int) -> None:
        CONTEXT.set_forkserver_preload([__name__])
        here, there = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_main, args=(there, self._tasks[number]), daemon=True)
        with _ignoring_interrupts():
            process.start()
        there.close()
        self._running[number] = _Process(process, here)

    def give(self, number: int, order: Order | None) -> None:
        try:
            data = pickle.dumps(order)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise cannot_be_sent(order, error) from error
        with contextlib.suppress(OSError):  # it died, and is heard of so
            self._running[number].pipe.send_bytes(data)

    def events(self) -> Iterator[tuple[int, object]]:
        numbers = {running.pipe: number for number, running in self._running.items()}
        for pipe in wait(list(numbers)):
            number = numbers[pipe]  # pyright: ignore[reportArgumentType]
            try:
                yield number, self._running[number].pipe.recv()
            except (EOFError, OSError):
                yield number, Lost(self._ended(number))

    def stop(self, number: int) -> None:
        self._end([running] if (running := self._running.pop(number, None)) else [])

    def close(self) -> None:
        """End all workers; what they are writing is written."""
        running, self._running = list(self._running.values()), {}
        self._end(running)

    def leave(self) -> None:
        """There is nothing to leave."""

    def _ended(self, number: int) -> str:
        running = self._running.pop(number)
        running.process.join()
        running.pipe.close()
        code = running.process.exitcode or 0
        if code == -signal.SIGKILL:
            return "it was killed, by the system perhaps, for lack of memory"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    @staticmethod
    def _end(running: list[_Process]) -> None:
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.join(_SECONDS)
            each.process.kill()
            each.process.join()
            each.pipe.close()


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """A process that is started here leaves Ctrl-C to the one that started it, from its first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _main(pipe: Connection, task: Task) -> None:
    """The life of a worker; it ends with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    give_again()
    orders: SimpleQueue[Order | None] = SimpleQueue()
    threading.Thread(target=_hear, args=(pipe, orders), daemon=True).start()
    try:
        worker = Worker(task)
        pipe.send(worker.hello())
        while True:
            worker.work(orders, pipe.send)
            pipe.send(Released())
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send(outcome(error))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _hear(pipe: Connection, orders: SimpleQueue[Order | None]) -> None:
    """Take orders from the pipe; where it ends, so does the process, whatever it is doing."""
    try:
        while True:
            orders.put(pickle.loads(pipe.recv_bytes()))
    except (EOFError, OSError):
        os._exit(1)


def _leave(*_: object) -> None:
    raise SystemExit(0)
