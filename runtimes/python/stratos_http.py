"""A client for the Lambda Runtime API: one keep-alive connection, blocking, requests pipelined, responses read in order.

Written by hand on the interpreter's own socket type: ``http.client`` and ``socket`` would add more to each cold start than the rest
of this runtime. It never retries: the peer is the agent on the same machine, and when the agent closes the connection there is nobody
left to serve.
"""

import _socket

_PATH = "/2018-06-01/runtime"
_HEAD_LIMIT = 64 * 1024
_READ_BYTES = 64 * 1024


class Closed(Exception):
    """The agent has closed the connection."""


class ProtocolError(Exception):
    """The peer does not speak HTTP/1.1 as agreed."""


class Connection:
    """One connection to the Runtime API. Not for use by several threads."""

    def __init__(self, address):
        """``address`` is ``host:port``, the host an IPv4 address or a name for one."""
        host, _, port = address.rpartition(":")
        self._host = address
        self._rest = b""
        self.next_request = f"GET {_PATH}/invocation/next HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
        self._socket = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self._socket.connect((host, int(port)))

    def send(self, data):
        """Sends all of ``data``, or raises ``Closed``."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None

    def post(self, path, headers, body):
        """A whole POST request. ``headers`` is complete lines, each with its line end; ``body`` is bytes."""
        head = f"POST {_PATH}{path} HTTP/1.1\r\nHost: {self._host}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        return head.encode("latin-1") + body

    def streamed_post(self, path, content_type):
        """The head of a POST whose body follows in chunks, with room for the trailers that tell of an error halfway."""
        return (
            f"POST {_PATH}{path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {content_type}\r\n"
            "Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n"
            "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n"
        ).encode("latin-1")

    def response(self):
        """The next response, as status, headers (names in lower case) and body."""
        while True:
            lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            version, _, rest = lines[0].partition(" ")
            status = int(rest[:3]) if rest[:3].isdigit() else 0
            if not version.startswith("HTTP/1.") or status < 100:
                raise ProtocolError("response has a malformed status line")
            if status >= 200:  # Below: an interim response, the real one follows.
                break
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if "transfer-encoding" in headers:
            return status, headers, self._chunks()
        if status == 204:
            return status, headers, b""
        if not headers.get("content-length", "").isdigit():
            raise ProtocolError("response does not say how long it is")
        return status, headers, self._exactly(int(headers["content-length"]))

    def _receive(self):
        try:
            data = self._socket.recv(_READ_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed
        return data

    def _until(self, mark):
        data = self._rest
        while (end := data.find(mark)) < 0:
            if len(data) > _HEAD_LIMIT:
                raise ProtocolError("response header is too long")
            data += self._receive()
        self._rest = data[end + len(mark) :]
        return data[:end]

    def _exactly(self, length):
        if len(self._rest) >= length:
            data, self._rest = self._rest[:length], self._rest[length:]
            return data
        body = bytearray(length)
        view = memoryview(body)
        filled = len(self._rest)
        view[:filled] = self._rest
        self._rest = b""
        while filled < length:
            try:
                count = self._socket.recv_into(view[filled:])
            except ConnectionResetError:
                count = 0
            if count == 0:
                raise Closed
            filled += count
        return body

    def _chunks(self):
        body = bytearray()
        while True:
            try:
                size = int(self._until(b"\r\n").partition(b";")[0], 16)
            except ValueError:
                raise ProtocolError("response has a malformed chunk size") from None
            if size == 0:
                while self._until(b"\r\n"):
                    pass  # Trailers, which this API does not use in responses.
                return body
            body += self._exactly(size)
            if self._until(b"\r\n"):
                raise ProtocolError("response chunk is longer than it said")
