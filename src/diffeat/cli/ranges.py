"""Lists of numbers on the command line."""

from __future__ import annotations

from diffeat.errors import InvalidValueError


def read_numbers(text: str, option: str) -> list[float]:
    """Numbers and ranges by commas: ``20,60`` or ``60:500:40`` (from, up to and with, by; 1 if no step).

    Raises:
        InvalidValueError: For anything else; names the option.
    """
    found: list[float] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        try:
            values = [float(v) for v in item.split(":")]
        except ValueError:
            values = []
        if len(values) == 1:
            found += values
        elif len(values) in (2, 3) and (step := values[2] if len(values) == 3 else 1.0) > 0 and values[1] >= values[0]:
            count = int((values[1] - values[0]) / step + 1e-9) + 1
            found += [values[0] + k * step for k in range(count)]
        else:
            raise InvalidValueError(f"{option} takes numbers and ranges such as 20,60 or 60:500:40, not {item!r}.")
    if not found:
        raise InvalidValueError(f"{option} names no number.")
    return list(dict.fromkeys(found))
