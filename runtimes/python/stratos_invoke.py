"""One invocation: the context object, the styles of handlers, and the answer."""

import os
import sys
import time

import stratos_json
from stratos_errors import RuntimeFault, report
from stratos_http import Closed

_Namespace = type(sys.implementation)  # types.SimpleNamespace, without importing `types`.
_Generator = type(_ for _ in ())
_INTEGRATION_RESPONSE = "application/vnd.awslambda.http-integration-response"


class Context:
    """What a handler learns about its invocation and its function."""

    def __init__(self, headers):
        environ = os.environ
        self._deadline_ms = int(headers.get("lambda-runtime-deadline-ms", 0))
        self.aws_request_id = headers["lambda-runtime-aws-request-id"]
        self.invoked_function_arn = headers.get("lambda-runtime-invoked-function-arn")
        self.function_name = environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.function_version = environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.memory_limit_in_mb = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.log_group_name = environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.client_context = _namespace(headers.get("lambda-runtime-client-context"), "client", "custom", "env")
        identity = _namespace(headers.get("lambda-runtime-cognito-identity"), "cognitoIdentityId", "cognitoIdentityPoolId")
        self.identity = identity and _Namespace(
            cognito_identity_id=identity.cognitoIdentityId, cognito_identity_pool_id=identity.cognitoIdentityPoolId
        )
        self.traceparent = headers.get("traceparent")
        self.tracestate = headers.get("tracestate")

    def get_remaining_time_in_millis(self):
        """Milliseconds until the invocation times out."""
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def log(self, message):
        """Writes ``message`` to the log as it is."""
        sys.stdout.write(str(message))
        sys.stdout.flush()


def _namespace(text, *names):
    if text is None:
        return None
    values = stratos_json.loads(text.encode("latin-1"))
    return _Namespace(**{name: values.get(name) for name in names})


class Invocation:
    """An event that arrived, until it is answered."""

    def __init__(self, connection, headers, body):
        self._connection = connection
        self._headers = headers
        self._body = body
        self._streaming = False
        self.id = headers["lambda-runtime-aws-request-id"]

    def run(self, handler, wait):
        """Runs the handler to its end; ``wait`` runs a coroutine. Returns the request that is left to send, empty when the
        response was streamed. Only ``SystemExit`` and lost connections pass."""
        try:
            try:
                event = stratos_json.loads(self._body)
            except ValueError as error:
                raise RuntimeFault("Runtime.UnmarshalError", f"the event is not JSON: {error}") from error
            result = handler(event, Context(self._headers))
            if hasattr(result, "__await__"):
                result = wait(result)
            if isinstance(result, _Generator):
                return self._stream(lambda: next(result))
            if hasattr(result, "__anext__"):
                return self._stream(lambda: wait(_next(result)))
            try:
                body = stratos_json.dumps(result)
            except (TypeError, ValueError, RecursionError) as error:
                message = f"the handler's result cannot be written as JSON: {error}"
                raise RuntimeFault("Runtime.MarshalError", message) from error
            return self._connection.post(f"/invocation/{self.id}/response", "Content-Type: application/json\r\n", body)
        except Closed:
            raise
        except Exception as error:
            return self.fail(error)

    def fail(self, error):
        """The answer that tells of ``error``: in the trailers of a response that is half out, else a request of its own."""
        header, body = report(error, self.id)
        if not self._streaming:
            return self._connection.post(f"/invocation/{self.id}/error", f"Content-Type: application/json\r\n{header}", body)
        import binascii

        encoded = binascii.b2a_base64(body, newline=False)
        return b"0\r\n" + header.encode() + b"Lambda-Runtime-Function-Error-Body: " + encoded + b"\r\n\r\n"

    def _stream(self, next_chunk):
        """Sends what a generator yields. A dict as the first item is the status code, headers and cookies of an HTTP response."""
        content_type = "application/octet-stream"
        chunk = _next_or_none(next_chunk)
        if isinstance(chunk, dict):
            content_type = _INTEGRATION_RESPONSE
            chunk = stratos_json.dumps(chunk) + bytes(8)
        # Nothing is out before the first chunk is known to be good, so that an early error is an ordinary one.
        data = _frame(chunk)
        head = self._connection.streamed_post(f"/invocation/{self.id}/response", content_type)
        self._streaming = True
        self._connection.send(head + data)
        while chunk is not None:
            chunk = _next_or_none(next_chunk)
            self._connection.send(_frame(chunk))
        return b""


async def _next(generator):
    return await generator.__anext__()


def _next_or_none(next_chunk):
    try:
        chunk = next_chunk()
    except (StopIteration, StopAsyncIteration):
        return None
    if chunk is None:
        raise TypeError("a streaming handler must yield str or bytes, not None")
    return chunk


def _frame(chunk):
    """One HTTP chunk; the last one for ``None``; nothing for an empty chunk, which would end the body."""
    if chunk is None:
        return b"0\r\n\r\n"
    if isinstance(chunk, str):
        chunk = chunk.encode()
    if not isinstance(chunk, (bytes, bytearray, memoryview)):
        raise TypeError(f"a streaming handler must yield str or bytes, not {type(chunk).__name__}")
    data = bytes(chunk)
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
