"""How errors are told to the Runtime API and to the log."""

import os
import sys

import stratos_json

_HERE = os.path.dirname(os.path.abspath(__file__))


class RuntimeFault(Exception):
    """An error with one of the names that the Runtime API defines, such as ``Runtime.ImportModuleError``."""

    def __init__(self, name, message, error=None):
        """``error`` is the exception behind it, whose traceback says more than where the runtime noticed."""
        super().__init__(message)
        self.name = name
        self.error = error


def _describe(error):
    """Error type, message, and the lines of the stack from the user's first frame on."""
    import traceback  # Costs as much as the rest of a start, and most starts never need it.

    name = error.name if isinstance(error, RuntimeFault) else type(error).__name__
    origin = error.error if isinstance(error, RuntimeFault) else error
    frames = traceback.extract_tb(origin.__traceback__) if origin is not None else []
    while frames and os.path.dirname(frames[0].filename) == _HERE:
        frames = frames[1:]
    stack = traceback.format_list(frames)
    if isinstance(origin, SyntaxError):
        stack += traceback.format_exception_only(origin)[:-1]
    return name, str(error), stack


def report(error, request_id):
    """Logs ``error`` and returns the header line and the body that tell it to the Runtime API."""
    name, message, stack = _describe(error)
    body = {"errorMessage": message, "errorType": name, "requestId": request_id, "stackTrace": stack}
    trace = "Traceback (most recent call last):\n" + "".join(stack) if stack else ""
    sys.stderr.write(f"[ERROR] {name}: {message}\n{trace}")
    return f"Lambda-Runtime-Function-Error-Type: {_header_type(name)}\r\n", stratos_json.dumps(body)


def _header_type(name):
    """``Runtime.*`` for the platform's names, ``Function.*`` for what user code raises."""
    if name.startswith("Runtime."):
        return name
    return f"Function.{name}" if name.isascii() and name.isalpha() and name[0].isupper() else "Function.UnhandledError"
