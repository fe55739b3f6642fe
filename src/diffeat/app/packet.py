"""Arrays on their way to the browser: four bytes with the length of a JSON text, the text, then each array's bytes.

The text is padded with blanks so that arrays begin at a multiple of eight. Arrays are little-endian and in C order;
``static/lib/packet.js`` reads them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fastapi import Response
from torch import Tensor


def packed(header: dict[str, Any], arrays: Sequence[np.ndarray]) -> Response:
    """A response that ``readPacket`` of the page takes.

    Args:
        header: Plain data; ``arrays`` is added to it, the type and shape of each.
        arrays: Of uint8, float16 or float32.
    """
    described = [{"type": str(a.dtype), "shape": list(a.shape)} for a in arrays]
    text = json.dumps({**header, "arrays": described}, allow_nan=False).encode()
    text += b" " * (-(len(text) + 4) % 8)
    body = [struct.pack("<I", len(text)), text]
    for array in arrays:
        data = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()
        body += [data, bytes(-len(data) % 8)]
    return Response(b"".join(body), media_type="application/octet-stream")


def as_bytes(values: Tensor, low: float, high: float) -> np.ndarray:
    """As 0…255 between two values."""
    return ((values.float() - low) * (255 / max(high - low, 1e-12))).round().clamp(0, 255).to(torch.uint8).numpy()
