"""An order to stop that comes while something is freed is heard all the same."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

CODE = """
import os, signal, sys, time
from diffeat.unheard import give_again

def leave(*_):
    raise SystemExit(5)

class Freed:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0)  # here it is raised, and lost

signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts it in the background has it ignored
give_again()
try:
    Freed()
    time.sleep(60)
    print("went on")
except KeyboardInterrupt:
    sys.exit(6)
"""


@pytest.mark.parametrize(("order", "code"), [(signal.SIGTERM, 5), (signal.SIGINT, 6)])
def test_an_order_to_stop_is_heard_where_something_is_freed(order: int, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, str(int(order))], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_other_faults_are_told_as_ever_and_a_hook_of_ones_own_stays() -> None:
    code = (
        "import sys\nfrom diffeat.unheard import give_again\n{}\ngive_again()\n"
        "class Freed:\n    def __del__(self): raise ValueError('lost')\nFreed()"
    )
    told = subprocess.run([sys.executable, "-c", code.format("")], capture_output=True, text=True, check=True)
    assert "Exception ignored" in told.stderr
    assert "ValueError: lost" in told.stderr
    nobodys = code.format("").replace("ValueError('lost')", "SystemExit(3)") + "\nimport time\ntime.sleep(1)"
    told = subprocess.run([sys.executable, "-c", nobodys], capture_output=True, text=True, check=True)
    assert "SystemExit: 3" in told.stderr  # nobody takes the order here: given again, it would kill
    own = "sys.unraisablehook = lambda fault: print('mine', fault.exc_value)"
    told = subprocess.run([sys.executable, "-c", code.format(own)], capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("mine lost\n", "")
