"""JSON by the interpreter's own accelerator alone.

``import json`` loads ``re``, ``enum``, ``functools`` and more: several milliseconds of every cold start, for functions that may
never use them. The C scanner and encoder underneath need none of it, and behave the same.
"""

import _json


class _Scanner:
    """The settings of ``json.loads`` without arguments."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__


_scan = _json.make_scanner(_Scanner)


def loads(data):
    """The value of a JSON document in UTF-8. Raises ``ValueError``."""
    text = data.decode().strip(" \t\r\n")
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError):
        end = -1  # The scanner's own error type lives in `json`, and without it the scanner fails to raise.
    if end != len(text):
        import json

        return json.loads(text)  # Raises, and says where.
    return value


def _default(value):
    kind = type(value)
    if kind.__module__ == "decimal" and kind.__name__ == "Decimal":
        return int(value) if value == value.to_integral_value() else float(value)
    raise TypeError(f"object of type {kind.__name__} is not JSON serializable")


def dumps(value):
    """``value`` as a compact JSON document in UTF-8. Numbers of type ``Decimal`` are allowed, since boto3 returns them.

    Raises ``TypeError`` and ``ValueError`` as ``json.dumps`` does; NaN and infinities are not JSON and so are errors."""
    encode = _json.make_encoder({}, _default, _json.encode_basestring, None, ":", ",", False, False, False)
    return "".join(encode(value, 0)).encode()
