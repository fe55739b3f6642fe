"""Importing this keeps bytecode, in this process and in those that it starts.

Many tests start one. Where no bytecode is kept, and none was made when packages were installed, each process compiles
torch, transformers and diffusers anew, for fifteen seconds.
"""

from __future__ import annotations

import os
import sys

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
