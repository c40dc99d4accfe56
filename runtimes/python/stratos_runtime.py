"""The Python runtime: loads the handler, waits to be released, then answers events from the Lambda Runtime API one after another.

The order is part of the contract with the agent (see ``stratos.py``): ``R``, load, ``P``, park, connect, loop. Nothing connects
anywhere before the release, so that a process parked here can be checkpointed and continued many times.
"""

import _thread
import os
import sys

import stratos
import stratos_handler
from stratos_errors import RuntimeFault, report
from stratos_http import Closed, Connection
from stratos_invoke import Invocation

_CO_ASYNC = 0x80 | 0x200  # inspect.CO_COROUTINE and CO_ASYNC_GENERATOR


def _log_plainly(logging):
    """Gives ``logging`` a plain format on stderr for every level. It is the handler of last resort that is replaced: a function that
    configures logging itself finds nothing in its way."""
    logging.lastResort = logging.StreamHandler()
    logging.lastResort.setFormatter(logging.Formatter("[%(levelname)s] %(name)s: %(message)s"))


class _EventLoop:
    """The one asyncio event loop of the process, made when the first coroutine is run."""

    def __init__(self, shared):
        """``shared``: several threads use it, so it runs in a thread of its own."""
        self._shared = shared
        self._loop = None
        self._lock = _thread.allocate_lock()

    def run(self, awaitable):
        """The result of ``awaitable``."""
        import asyncio

        async def run():
            return await awaitable

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                if self._shared:
                    _thread.start_new_thread(self._loop.run_forever, ())
                else:
                    asyncio.set_event_loop(self._loop)
        if self._shared:
            return asyncio.run_coroutine_threadsafe(run(), self._loop).result()
        return self._loop.run_until_complete(run())


def _leave(code):
    """Ends the process at once, whatever threads the function has left, but loses no output."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass  # Nobody reads any more; there is no place left to say so.
    os._exit(code)


def _refuse(error):
    """Tells the agent why this runtime cannot serve, and exits."""
    header, body = report(error, "")
    address = os.environ.get("AWS_LAMBDA_RUNTIME_API")
    if address:
        try:
            connection = Connection(address)
            connection.send(connection.post("/init/error", f"Content-Type: application/json\r\n{header}", body))
            connection.response()
        except (OSError, Closed) as lost:
            sys.stderr.write(f"runtime API at {address}: {lost}\n")
    _leave(1)


def _serve(handler, wait, alone):
    """Serves events on one connection until the agent closes it. ``alone``: no other thread does the same."""
    connection = Connection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    answer = b""
    accepted = True
    try:
        while True:
            connection.send(answer + connection.next_request)
            if not accepted:
                status, _, body = connection.response()
                if status != 202:
                    # The agent has settled the invocation itself, for instance as too large; the next event is already asked for.
                    sys.stderr.write(f"[ERROR] the runtime API refused the answer: {status} {body.decode(errors='replace')}\n")
            status, headers, body = connection.response()
            if status != 200:
                raise RuntimeError(f"the runtime API answered {status} to a request for the next event")
            if alone:
                os.environ["_X_AMZN_TRACE_ID"] = headers.get("lambda-runtime-trace-id", "")
            invocation = Invocation(connection, headers, body)
            accepted = False
            try:
                answer = invocation.run(handler, wait)
            except SystemExit as leaving:
                fault = RuntimeFault("Runtime.ExitError", f"the handler called sys.exit({leaving.code!r})", leaving)
                connection.send(invocation.fail(fault))
                connection.response()
                _leave(leaving.code if isinstance(leaving.code, int) else 1)
    except Closed:
        _leave(0)
    except BaseException as error:
        report(error, "")
        _leave(1)


def main():
    """Runs the runtime; never returns."""
    # One write for each line, even where PYTHONUNBUFFERED would make it two (the text, then its line end).
    sys.stdout.reconfigure(line_buffering=True, write_through=False)
    stratos._WhenImported("logging", _log_plainly)
    stratos_handler.prepare_path(os.environ.get("LAMBDA_TASK_ROOT") or os.getcwd())
    try:
        handler = stratos_handler.load(os.environ.get("_HANDLER", ""))
    except BaseException as error:
        _refuse(error)
    if getattr(getattr(handler, "__code__", None), "co_flags", 0) & _CO_ASYNC:
        import asyncio  # noqa: F401  Part of the start, not of the first event.

    threads = 1
    try:
        stratos._park()
        threads = max(1, int(os.environ.get("AWS_LAMBDA_MAX_CONCURRENCY") or 1))
        loop = _EventLoop(shared=threads > 1)
        for hook in stratos._restore_hooks:
            result = hook()
            if hasattr(result, "__await__"):
                loop.run(result)
    except BaseException as error:
        _refuse(RuntimeFault("Runtime.AfterRestoreError", str(error), error))

    if threads > 1:
        import threading

        for _ in range(threads - 1):
            threading.Thread(target=_serve, args=(handler, loop.run, False), daemon=True).start()
    _serve(handler, loop.run, threads == 1)
