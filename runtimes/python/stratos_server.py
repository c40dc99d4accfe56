"""The place where a server parks: its main thread is about to wait for a connection on ``$PORT`` for the first time. Loaded for
checkpoints, and by servers that register a hook.

``listen`` would be too early, since programs go on initialising after it. So the calls that wait for connections are replaced until
one of them is about to block on a socket that listens on the port; then all of them are put back. That covers what asyncio,
``socketserver`` (http.server, Flask), uvicorn and waitress do. uvloop waits in C, and is met at the end of its ``create_server``.
"""

import _socket
import os
import select
import selectors
import socket
import sys
import threading

import stratos

_ABSENT = object()


def park_when_listening(port):
    """Parks this process once it waits for connections on ``port``. Never parks a child of it: a process that shares its work with
    others cannot be checkpointed."""
    _Gate(port, stratos._park, os.getpid())


def run_hooks_when_listening(port):
    """In a start without a checkpoint: runs the hooks once this process waits for connections on ``port``."""
    _Gate(port, lambda: None, None)


class _Gate:
    """Calls ``first``, then the hooks, before the first connection is accepted."""

    def __init__(self, port, first, pid):
        self._port = port
        self._first = first
        self._pid = pid
        self._replaced = []
        self._uvloop_finder = None
        self._task = None
        self._primer = _Primer(port) if pid is not None and stratos._prime else None
        for kind in (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector):
            self._replace(kind, "select", self._selector_select)
        self._replace(select, "select", self._select_select)
        self._replace(socket.socket, "accept", self._accept)
        if "uvloop" in sys.modules:
            self._prepare_uvloop(sys.modules["uvloop"])
        else:
            self._uvloop_finder = stratos._WhenImported("uvloop", self._prepare_uvloop)

    def _replace(self, owner, name, wrap):
        own = vars(owner).get(name, _ABSENT)
        wrapper = wrap(getattr(owner, name))
        setattr(owner, name, wrapper)
        self._replaced.append((owner, name, own, wrapper))

    def _put_back(self):
        """References to the wrappers that the program has taken stay, and only pass on."""
        self._first = None
        if self._uvloop_finder in sys.meta_path:
            sys.meta_path.remove(self._uvloop_finder)
        for owner, name, own, wrapper in self._replaced:
            if vars(owner).get(name) is not wrapper:
                continue  # Someone else has replaced it meanwhile.
            if own is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
        self._replaced = []

    def _selector_select(self, original):
        def select(selector, timeout=None):
            if self._first is not None and self._waits(timeout):
                fds = self._listening([key.fd for key in (selector.get_map() or {}).values()])
                if fds and self._go_through(selector, fds):
                    timeout = 0  # The event loop has got work meanwhile.
            return original(selector, timeout)

        return select

    def _select_select(self, original):
        def select(reading, writing, exceptional, timeout=None, /):
            if self._first is not None and self._waits(timeout):
                reading = list(reading)
                if self._listening(fd if isinstance(fd, int) else fd.fileno() for fd in reading):
                    self._go_through()
            return original(reading, writing, exceptional, timeout)

        return select

    def _accept(self, original):
        def accept(listener):
            if self._first is not None and self._waits(listener.gettimeout()) and self._listening([listener.fileno()]):
                self._go_through()
            return original(listener)

        return accept

    def _prepare_uvloop(self, uvloop):
        if self._first is not None:
            self._replace(uvloop.Loop, "create_server", self._create_server)

    def _create_server(self, original):
        async def create_server(loop, *arguments, **options):
            if self._first is None or not options.get("start_serving", True):
                return await original(loop, *arguments, **options)
            server = await original(loop, *arguments, **{**options, "start_serving": False})
            fds = [each.fileno() for each in server.sockets if self._is_on_port(each)]
            if fds and self._waits(None):
                # The kernel already takes connections, and uvloop does not.
                for fd in fds:
                    with socket.socket(fileno=os.dup(fd)) as listener:
                        listener.listen(options.get("backlog", 100))
                self._go_through()
                if self._task is not None:
                    await self._task
            await server.start_serving()
            return server

        return create_server

    def _waits(self, timeout):
        """Whether a call with this timeout is made by the right thread, and blocks."""
        if self._pid not in (None, os.getpid()):
            self._put_back()
            return False
        # uvicorn writes the `Date` of its responses once a second, first between its first look for connections and its first wait.
        blocks = timeout is None or timeout > 0 or "uvicorn.server" in sys.modules
        return blocks and threading.get_ident() == threading.main_thread().ident

    def _listening(self, fds):
        return [fd for fd in fds if self._listens(fd)]

    def _listens(self, fd):
        try:
            probe = _socket.socket(fileno=fd)
        except OSError:
            return False  # Not a socket.
        try:
            return self._is_on_port(probe) and probe.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN) == 1
        finally:
            probe.detach()

    def _is_on_port(self, listener):
        return listener.family in (_socket.AF_INET, _socket.AF_INET6) and listener.getsockname()[1] == self._port

    def _go_through(self, selector=None, fds=()):
        """True when an event loop runs, which may have got work from the hooks."""
        if self._primer is not None and not self._primer.is_done():
            return False  # It waits for the primer's connections.
        first = self._first
        self._put_back()
        try:
            first()
            hooks = iter(stratos._restore_hooks)
            asyncio = sys.modules.get("asyncio")
            loop = asyncio and asyncio._get_running_loop()
            for hook in hooks:
                result = hook()
                if hasattr(result, "__await__"):
                    self._finish(_rest(result, hooks), loop, selector, fds)
                    break
        except BaseException as error:
            _fail(error)
        return loop is not None

    def _finish(self, hooks, loop, selector, fds):
        """Runs what is left of the hooks, from the first asynchronous one. Meanwhile, connections wait."""
        if loop is None:
            import asyncio

            asyncio.run(hooks)
            return
        held = [selector.unregister(fd) for fd in fds]

        def done(task):
            try:
                task.result()
            except BaseException as error:
                _fail(error)
            for key in held:
                selector.register(key.fileobj, key.events, key.data)

        self._task = loop.create_task(hooks)
        self._task.add_done_callback(done)


class _Primer:
    """Asks the server what its author wants it to have answered before it parks. A thread asks; the main thread serves."""

    def __init__(self, port):
        self._port = port
        self._thread = None
        self._asked = threading.Event()

    def is_done(self):
        """Whether all was asked; begins with it when first called."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._ask_all, daemon=True)
            self._thread.start()
        if self._thread.is_alive() and not self._asked.wait(0):
            return False
        self._thread.join()
        return True

    def _ask_all(self):
        import json

        for path in json.loads(stratos._prime):
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
                    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                    while connection.recv(65536):
                        pass
            except OSError as error:
                sys.stderr.write(f"[WARN] prime {path}: {error}\n")
        self._asked.set()
        # The main thread waits for a connection, and looks again when this one comes.
        with socket.create_connection(("127.0.0.1", self._port), timeout=5):
            pass


async def _rest(awaitable, hooks):
    await awaitable
    for hook in hooks:
        result = hook()
        if hasattr(result, "__await__"):
            await result


def _fail(error):
    """Ends the process: it must not serve in a state that nobody foresaw."""
    sys.excepthook(type(error), error, error.__traceback__)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass  # Nobody reads any more; there is no place left to say so.
    os._exit(1)
