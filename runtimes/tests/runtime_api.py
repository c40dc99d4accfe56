"""A Runtime API server that forgives nothing, for driving a bootstrap as the agent would.

It reads raw sockets, so that it can see what an HTTP library hides (pipelining, chunk framing, trailers) and can cut its own answers at
any byte. Whatever a bootstrap does that the API does not allow is recorded in ``violations``.
"""

import base64
import json
import queue
import re
import socket
import threading
import time
from dataclasses import dataclass, field

PATH = "/2018-06-01/runtime"
PATIENCE_SECONDS = 20


@dataclass
class Outcome:
    """How an invocation, or the whole start, ended."""

    kind: str  # response, error, init-error
    headers: dict
    body: bytes
    streamed: bool = False
    trailers: dict = field(default_factory=dict)
    chunks: list = field(default_factory=list)

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error_type(self):
        """The error type of the header, or of the trailer of a stream that broke."""
        return self.headers.get("lambda-runtime-function-error-type") or self.trailers.get("lambda-runtime-function-error-type")

    @property
    def trailer_error(self):
        return json.loads(base64.b64decode(self.trailers["lambda-runtime-function-error-body"], validate=True))


class Violation(Exception):
    """The bootstrap broke a rule of the API."""


class Hangup(Exception):
    """The bootstrap closed the connection between two requests."""


class RuntimeApi:
    """One server for one bootstrap process. ``cut``: ``None``, ``"bytes"`` (one byte a segment) or ``"chunks"`` (chunked bodies)."""

    def __init__(self, cut=None, refuse_answers=None):
        self.cut = cut
        self.refuse_answers = refuse_answers
        self.outcomes = queue.Queue()
        self.violations = []
        self.pipelined = 0
        self.connections = 0
        self.in_flight = {}
        self._events = queue.Queue()
        self._lock = threading.Lock()
        self._sockets = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def send(self, identity, event, headers=None, timeout_ms=30_000):
        """Queues an event; ``event`` is bytes, or anything that JSON can say."""
        body = event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode()
        self._events.put((identity, body, headers or {}, int(time.time() * 1000) + timeout_ms))

    def outcome(self):
        """The next outcome, as (request id or None, Outcome)."""
        return self.outcomes.get(timeout=PATIENCE_SECONDS)

    def hang_up(self):
        """Closes every connection, as the agent does when an instance is no longer wanted."""
        self._listener.close()
        with self._lock:
            self._events.put(None)
            for connection in self._sockets:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # The bootstrap was first.

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._sockets.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            _Session(self, connection).run()
        except (Hangup, OSError):
            pass
        except Violation as violation:
            self.violations.append(str(violation))
            connection.close()

    def next_event(self):
        event = self._events.get()
        if event is None:
            self._events.put(None)  # For the other connections.
        return event


class _Session:
    """One connection: what it has asked for, and what it owes."""

    def __init__(self, api, connection):
        self._api = api
        self._connection = connection
        self._buffer = b""
        self._current = None

    def run(self):
        while True:
            method, target, headers = self._head()
            if method == "GET":
                self._next(target)
            elif method == "POST":
                self._post(target, headers)
            else:
                raise Violation(f"method {method}")

    def _next(self, target):
        if target != f"{PATH}/invocation/next":
            raise Violation(f"GET {target}")
        if self._current is not None:
            raise Violation("asked for the next event before answering the last")
        event = self._api.next_event()
        if event is None:
            raise Hangup
        identity, body, extra, deadline = event
        self._current = identity
        headers = {
            "Lambda-Runtime-Aws-Request-Id": identity,
            "Lambda-Runtime-Deadline-Ms": str(deadline),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:local:0:function:test",
            "Lambda-Runtime-Trace-Id": f"Root=1-{identity}",
            **extra,
        }
        with self._api._lock:
            self._api.in_flight[identity] = threading.get_ident()
        self._reply("200 OK", headers, body)

    def _post(self, target, headers):
        body, chunks, trailers = self._body(headers)
        streamed = headers.get("lambda-runtime-function-response-mode") == "streaming"
        if streamed != (chunks is not None):
            raise Violation("streaming mode and chunked encoding must come together")
        if target == f"{PATH}/init/error":
            kind, identity = "init-error", None
        else:
            match = re.fullmatch(PATH + r"/invocation/([^/]+)/(response|error)", target)
            if match is None:
                raise Violation(f"POST {target}")
            identity, kind = match.groups()
            if identity != self._current:
                raise Violation(f"answered {identity} while {self._current} was open on this connection")
            self._current = None
        if kind != "response":
            if not re.fullmatch(r"(Runtime|Function)\.[A-Z][a-zA-Z]+", headers.get("lambda-runtime-function-error-type", "")):
                raise Violation(f"error type header: {headers.get('lambda-runtime-function-error-type')}")
        elif not streamed:
            try:
                json.loads(body)
            except ValueError:
                raise Violation("response is not JSON") from None
        if self._buffer.startswith(b"GET "):
            self._api.pipelined += 1
        refusal = kind == "response" and self._api.refuse_answers
        self._reply(refusal or "202 Accepted", {}, b'{"status":"OK"}\n')
        outcome = Outcome(kind, headers, body, streamed, trailers, chunks or [])
        self._api.outcomes.put((identity, outcome))

    def _reply(self, status, headers, body):
        head = f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if self._api.cut == "chunks":
            pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
            payload = b"".join(b"%X;note=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nX-Trailer: yes\r\n\r\n"
            data = f"HTTP/1.1 100 Continue\r\n\r\n{head}transfer-encoding: chunked\r\n\r\n".encode("latin-1") + payload
        else:
            data = f"{head}content-length: {len(body)}\r\n\r\n".encode("latin-1") + body
        if self._api.cut == "bytes":
            for at in range(len(data)):
                self._connection.sendall(data[at : at + 1])
        else:
            self._connection.sendall(data)

    def _head(self):
        if not self._buffer and not self._fill():
            raise Hangup
        lines = self._until(b"\r\n\r\n").decode("ascii").split("\r\n")
        method, target, version = lines[0].split(" ")
        if version != "HTTP/1.1":
            raise Violation(f"version {version}")
        headers = {}
        for line in lines[1:]:
            match = re.fullmatch(r"([A-Za-z0-9-]+): ?(.*)", line)
            if match is None or match[1].lower() in headers:
                raise Violation(f"header line {line!r}")
            headers[match[1].lower()] = match[2]
        if headers.get("host") != self._api.address:
            raise Violation(f"host header {headers.get('host')}")
        return method, target, headers

    def _body(self, headers):
        if "transfer-encoding" not in headers:
            return self._exactly(int(headers["content-length"])), None, {}
        if headers["transfer-encoding"] != "chunked" or "content-length" in headers:
            raise Violation("body framing")
        chunks = []
        while size := int(self._until(b"\r\n"), 16):
            chunks.append(self._exactly(size))
            if self._exactly(2) != b"\r\n":
                raise Violation("chunk is longer than it said")
        declared = {name.strip().lower() for name in headers.get("trailer", "").split(",")}
        trailers = {}
        while line := self._until(b"\r\n").decode("ascii"):
            name, _, value = line.partition(": ")
            if name.lower() not in declared:
                raise Violation(f"trailer {name} was not declared")
            trailers[name.lower()] = value
        return b"".join(chunks), chunks, trailers

    def _fill(self):
        data = self._connection.recv(1 << 20)
        self._buffer += data
        return bool(data)

    def _until(self, mark):
        while mark not in self._buffer:
            if not self._fill():
                raise Violation("connection closed inside a request")
        data, _, self._buffer = self._buffer.partition(mark)
        return data

    def _exactly(self, length):
        pieces, missing = [self._buffer[:length]], length - len(self._buffer[:length])
        self._buffer = self._buffer[length:]
        while missing:
            data = self._connection.recv(min(missing, 1 << 20))
            if not data:
                raise Violation("connection closed inside a body")
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)
