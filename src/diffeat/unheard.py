"""An order to stop that comes while Python frees something: no exception gets out of there, so it is given again.

Python prints such an exception ("Exception ignored in …") and goes on, so that Ctrl-C would do nothing, and a worker
that is told to end would not. Whoever has a hook of his own keeps it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

#: What the orders raise where they are heard.
_ORDERS = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}


def give_again() -> None:
    """From now on in this process."""
    own = sys.unraisablehook is not sys.__unraisablehook__
    if os.name == "posix" and not own:  # elsewhere a process cannot send itself Ctrl-C
        sys.unraisablehook = _again


def _again(fault: sys.UnraisableHookArgs) -> None:
    order = _ORDERS.get(fault.exc_type)
    if order is None or not callable(signal.getsignal(order)):  # it was no order, since nobody takes one
        sys.__unraisablehook__(fault)
    else:
        threading.Timer(0.01, os.kill, (os.getpid(), order)).start()
