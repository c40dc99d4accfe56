"""Servers of several kinds, one named on the command line. What they share: state that was drawn before the park, hooks, and an answer
that tells of both."""

import json
import os
import random
import select
import selectors
import socket
import ssl  # noqa: F401
import subprocess
import sys
import tempfile
import time
import types
import uuid
from email.utils import formatdate

from stratos import on_restore

PORT = int(os.environ["PORT"])
early = random.random()
uuid._node = 1
tempfile.gettempdir()
names = tempfile._get_candidate_names()
added = []


def add(*seed):
    """What the platform calls instead of OpenSSL and numpy; only after the release, it counts."""
    if "FROM_FRAME" in os.environ:
        added.append(seed)


sys.modules["_ssl"].RAND_add = lambda data, entropy: add(data.hex(), entropy)
sys.modules["numpy.random"] = types.SimpleNamespace(seed=lambda words: add(words))
child = "import os; print(os.environ.get('STRATOS_CHECKPOINT'))"
seen = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout.strip()
variable = [os.environ.get("STRATOS_CHECKPOINT"), seen]
initialised = False
hooks = []
at_release = {}


@on_restore
def first():
    hooks.append(f"first {os.environ.get('FROM_FRAME')}")
    at_release.update(
        numbers=[random.random(), random.random()],
        added=list(added),
        names_kept=tempfile._name_sequence is names,
        node=uuid._node,
        initialised=initialised,
    )


@on_restore
async def second():
    import asyncio

    start = time.monotonic()
    await asyncio.sleep(0.2)
    hooks.append("second" if time.monotonic() - start >= 0.199 else "second, too early")


def answer():
    replaced = [
        "accept" in vars(socket.socket) and socket.socket.accept.__module__,
        "select" in vars(selectors.PollSelector),
        selectors.EpollSelector.select.__module__,
        type(select.select).__name__,
    ]
    body = json.dumps({"early": early, "variable": variable, "hooks": hooks, "replaced": replaced, **at_release}).encode()
    date = formatdate(usegmt=True).encode()
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b" % (date, len(body), body)


def serve_one(connection):
    connection.recv(1 << 16)
    connection.sendall(answer())
    connection.close()


def http_server():
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(answer())

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", PORT), Handler)
    initialise()
    server.serve_forever()


def asyncio_server(loop_factory=None):
    import asyncio

    async def connected(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer())
        writer.close()

    async def main():
        server = await asyncio.start_server(connected, "127.0.0.1", PORT)
        initialise()
        await server.serve_forever()

    loop = (loop_factory or asyncio.new_event_loop)()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main())


def uvicorn_server():
    sys.modules["uvicorn.server"] = types.ModuleType("uvicorn.server")
    asyncio_server()


def uvloop_server():
    import uvloop

    asyncio_server(uvloop.Loop)


def select_server():
    listener = listen()
    initialise()
    while True:
        select.select([listener], [], [])
        serve_one(listener.accept()[0])


def accept_server():
    listener = listen()
    initialise()
    while True:
        serve_one(listener.accept()[0])


def forking_server():
    listener = listen()
    if os.fork() == 0:
        print("child waits", flush=True)
        select.select([listener], [], [], 0.1)
        print("child goes on", flush=True)
        os._exit(0)
    os.wait()
    time.sleep(60)


def late_server():
    """Listens on $PORT only when told so on another port; until then it waits for datagrams on $PORT too."""
    with socket.create_server(("127.0.0.1", 0)) as control, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", PORT))
        print(control.getsockname()[1], flush=True)
        select.select([control, datagrams], [], [])
        control.accept()[0].close()
    accept_server()


def bad_hook_server():
    @on_restore
    async def third():
        raise IndexError("hook")

    accept_server()


def listen():
    return socket.create_server(("127.0.0.1", PORT))


def initialise():
    """What a program still does after ``listen``, on other sockets and with child processes."""
    global initialised
    for end in socket.socketpair():
        select.select([], [end], [], 1)
    subprocess.run(["true"], check=True, capture_output=True)
    initialised = True


globals()[f"{sys.argv[1]}_server"]()
