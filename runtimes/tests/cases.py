"""The cases: a table that both runtimes answer alike, then what needs more than one event and one outcome."""

from dataclasses import dataclass
from typing import Callable

import table
from harness import RUNTIMES, check, check_contains
from runtime_api import RuntimeApi


@dataclass
class Case:
    """One line of the report."""

    name: str
    language: str
    run: Callable


CASES = [Case(f"{language}: {name}", language, run) for language, name, run in table.cases()]


def case(*languages):
    """Registers a function `(harness)` as a case for each language; its docstring is the name."""

    def register(function):
        for language in languages:
            CASES.append(Case(f"{language}: {function.__doc__}", language, function))
        return function

    return register


both = case("node", "python")


@both
def environment(h):
    """the release frame sets and replaces variables"""
    h.start("basic.environment", env={"OLD": "old", "KEPT": "kept"}, frame_env={"OLD": "new=er", "ADDED": "ünï"})
    check(h.invoke(["OLD", "KEPT", "ADDED"]).json, {"OLD": "new=er", "KEPT": "kept", "ADDED": "ünï"}, "environment")
    h.finish()


@both
def parks(h):
    """nothing connects before the release, which may come in pieces"""
    h.start("basic.echo", release=False)
    check(h.instance.status(), b"R", "first status byte")
    check(h.instance.status(), b"P", "second status byte")
    check(h.api.connections, 0, "connections while parked")
    h.instance.release({"A": "1"}, piecewise=True)
    check(h.invoke(1).json, 1, "answer")
    h.finish()


@both
def abandoned(h):
    """a parked runtime whose agent is gone exits with 0"""
    h.start("basic.echo", release=False)
    check(h.instance.status() + h.instance.status(), b"RP", "status bytes")
    h.instance.abandon()
    check(h.instance.wait(), 0, "exit code")
    check(h.api.connections, 0, "connections")


@both
def bad_frame(h):
    """a release frame of another version is refused"""
    h.start("basic.echo", release=False)
    check(h.instance.status() + h.instance.status(), b"RP", "status bytes")
    h.instance.release(frame=h.frame(version=2))
    _, outcome = h.api.outcome()
    check((outcome.kind, outcome.error_type), ("init-error", "Runtime.AfterRestoreError"), "outcome")
    check(h.instance.wait(), 1, "exit code")


@both
def largest_frame(h):
    """a release frame of all that a pipe holds is read, and its time zone taken"""
    h.start("basic.zoned", release=False)
    check(h.instance.status() + h.instance.status(), b"RP", "status bytes")
    rest = (64 << 10) - 52 - len("TZ=XXX-5\0A=\0")
    h.instance.release({"TZ": "XXX-5", "A": "x" * rest})
    check(h.invoke("A").json, [rest, 5], "length of the variable, hour of 1970-01-01T00:00Z")
    h.finish()


@both
def larger_frame(h):
    """a release frame of a byte more is refused"""
    h.start("basic.echo", release=False)
    check(h.instance.status() + h.instance.status(), b"RP", "status bytes")
    header = bytearray(h.frame())
    header[48:52] = ((64 << 10) - 52 + 1).to_bytes(4, "little")
    h.instance.release(frame=bytes(header))
    _, outcome = h.api.outcome()
    check((outcome.kind, outcome.error_type), ("init-error", "Runtime.AfterRestoreError"), "outcome")
    check_contains(outcome.json["errorMessage"], "the release frame on fd 3", "message")
    check(h.instance.wait(), 1, "exit code")


@both
def by_hand(h):
    """without the pipes it serves just the same"""
    h.start("basic.echo", attached=False)
    check(h.invoke({"by": "hand"}).json, {"by": "hand"}, "answer")
    h.finish()


@both
def restore_hooks(h):
    """restore hooks run in order, after the frame, before the first event"""
    h.start("basic.restored", frame_env={"FROM_FRAME": "yes"})
    check(h.invoke(None).json, ["first yes", "second"], "hooks")
    h.finish()


@both
def restore_hook_fails(h):
    """a restore hook that fails is an init error"""
    h.start("hook.handler", root="broken")
    _, outcome = h.api.outcome()
    check((outcome.kind, outcome.error_type), ("init-error", "Runtime.AfterRestoreError"), "outcome")
    check_contains(outcome.json["errorMessage"], "hook", "message")
    check(h.instance.wait(), 1, "exit code")


@both
def context(h):
    """the context object"""
    h.start("basic.context")
    headers = {
        "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Tracestate": "vendor=1",
        "Lambda-Runtime-Client-Context": '{"custom":{"key":"value"}}',
        "Lambda-Runtime-Cognito-Identity": '{"cognitoIdentityId":"me","cognitoIdentityPoolId":"pool"}',
    }
    seen = h.invoke(None, "an-id", headers).json
    remaining = seen.pop("remaining")
    check(0 < remaining <= 30_000, True, f"remaining time of {remaining} ms is in range")
    expected = {
        "id": "an-id",
        "name": "test",
        "version": "3",
        "arn": "arn:aws:lambda:local:0:function:test",
        "memory": "128",
        "group": "/stratos/test",
        "stream": "one",
        "traceparent": headers["Traceparent"],
        "tracestate": "vendor=1",
        "client": "value",
        "identity": "me",
        "trace": "Root=1-an-id",
    }
    check(seen, expected, "context")
    h.finish()


@both
def many(h):
    """a thousand events on one connection, each answer with the next request in one write"""
    h.start("basic.echo")
    for n in range(1000):
        check(h.invoke(n, f"id-{n}").json, n, "answer")
    check(h.api.connections, 1, "connections")
    check(h.api.pipelined >= 990, True, f"{h.api.pipelined} of 1000 answers came with the next request")
    h.finish()


@both
def survives_errors(h):
    """errors do not end the process"""
    h.start("basic.fail")
    for n in range(3):
        check(h.invoke(None, f"id-{n}").kind, "error", "outcome")
    _, stderr = h.finish()
    check_contains(stderr, "ünusual", "log")


@both
def cut_bytes(h):
    """responses that arrive byte by byte"""
    h.start("basic.echo", api=RuntimeApi(cut="bytes"))
    for n in range(5):
        check(h.invoke({"n": n, "text": "añ😀"}, f"id-{n}").json, {"n": n, "text": "añ😀"}, "answer")
    h.finish()


@both
def cut_chunks(h):
    """chunked responses, with extensions, trailers and an interim response"""
    h.start("basic.echo", api=RuntimeApi(cut="chunks"))
    for n in range(5):
        check(h.invoke({"n": n, "text": "añ😀"}, f"id-{n}").json, {"n": n, "text": "añ😀"}, "answer")
    h.finish()


@both
def refused(h):
    """an answer that the agent refuses is logged, and the next event served"""
    h.start("basic.echo", api=RuntimeApi(refuse_answers="413 Payload Too Large"))
    for n in range(2):
        h.invoke(n, f"id-{n}")
    _, stderr = h.finish()
    check_contains(stderr, "413", "log")


@both
def payload_in(h):
    """an event of 6 MiB"""
    h.start("basic.size")
    length = 6 * 1024 * 1024 - 11
    check(h.invoke({"data": "x" * length}).json, {"length": length}, "answer")
    h.finish()


@both
def payload_out(h):
    """an answer of 6 MiB, of two-byte characters"""
    h.start("basic.large")
    length = 3 * 1024 * 1024 - 6
    body = h.invoke({"length": length}).body
    check(len(body), 6 * 1024 * 1024 - 1, "length of the answer")
    h.finish()


@both
def streams(h):
    """a streamed response, piece by piece"""
    h.start("basic.stream")
    outcome = h.invoke(["one ", "", "zwölf", "!"])
    check((outcome.kind, outcome.streamed, outcome.trailers), ("response", True, {}), "outcome")
    check(outcome.body.decode(), "one zwölf!", "body")
    check(h.invoke(["again"], "id-2").body, b"again", "next body")
    check(h.api.connections, 1, "connections")
    h.finish()


@both
def streams_http(h):
    """a streamed HTTP response has its metadata in front"""
    h.start("basic.stream_http")
    outcome = h.invoke(None)
    check(outcome.headers["content-type"], "application/vnd.awslambda.http-integration-response", "content type")
    check(outcome.body, b'{"statusCode":201,"headers":{"x-a":"b"}}' + bytes(8) + b"body", "body")
    h.finish()


@both
def streams_large(h):
    """a streamed response of 24 MiB"""
    h.start("basic.stream_large")
    outcome = h.invoke({"count": 96, "size": 262_144})
    check((len(outcome.body), outcome.trailers), (96 * 262_144, {}), "body")
    h.finish()


@both
def streams_nothing(h):
    """an empty stream"""
    h.start("basic.stream_empty")
    outcome = h.invoke(None)
    check((outcome.kind, outcome.streamed, outcome.body), ("response", True, b""), "outcome")
    h.finish()


@both
def stream_fails_early(h):
    """a stream that fails before its first byte is an ordinary error"""
    h.start("basic.stream_fail_early")
    outcome = h.invoke(None)
    check((outcome.kind, outcome.json["errorMessage"]), ("error", "early"), "outcome")
    h.finish()


@both
def stream_fails_late(h):
    """a stream that fails halfway tells it in trailers, and the next event is served"""
    h.start("basic.stream_fail_late")
    for n in range(2):
        outcome = h.invoke(None, f"id-{n}")
        check((outcome.kind, outcome.body), ("response", b"half"), "outcome")
        check_contains(outcome.error_type, "Function.", "error type in the trailer")
        check(outcome.trailer_error["errorMessage"], "late ✗", "message in the trailer")
    h.finish()


@both
def concurrency(h):
    """four events at once, each waiting for the others"""
    h.start("basic.rendezvous", env={"AWS_LAMBDA_MAX_CONCURRENCY": "4"})
    for n in range(4):
        h.api.send(f"id-{n}", {"parties": 4})
    outcomes = dict(h.api.outcome() for _ in range(4))
    check({key: value.json for key, value in outcomes.items()}, {f"id-{n}": {"running": 4} for n in range(4)}, "answers")
    check(h.api.connections, 4, "connections")
    h.finish()


@both
def crash(h):
    """a process that is killed leaves its invocation open"""
    h.start("basic.crash")
    h.api.send("id-1", None)
    check(h.instance.wait(), -9, "exit code")
    check(h.api.outcomes.empty(), True, "no outcome was reported")


@both
def leaves(h):
    """a handler that exits takes its exit code along"""
    h.start("basic.leave")
    h.api.send("id-1", None)
    check(h.instance.wait(), 7, "exit code")


@both
def prints(h):
    """each line is one write, as it was printed"""
    h.start("basic.print_two", env={"PYTHONUNBUFFERED": "1"})
    h.invoke(None)
    h.finish()
    check([piece.decode() for piece in h.instance.stdout], ["first ünïcode\n", "second line\n"], "writes to stdout")


@both
def prints_much(h):
    """no output is lost when the process exits at once"""
    h.start("basic.print_much")
    h.api.send("id-1", None)
    check(h.instance.wait(), 3, "exit code")
    lines = h.instance.output()[0].splitlines()
    check((len(lines), lines[-1][:5]), (2000, "1999 "), "lines")


@case("node")
def uncaught(h):
    """an error that nobody caught answers the invocation, then ends the process"""
    h.start("index.uncaught", root="commonjs")
    outcome = h.invoke(None)
    check((outcome.kind, outcome.error_type), ("error", "Function.RangeError"), "outcome")
    check(h.instance.wait(), 1, "exit code")


@case("node")
def unhandled(h):
    """a rejection that nobody handled answers the invocation, then ends the process"""
    h.start("index.unhandled", root="commonjs")
    outcome = h.invoke(None)
    check((outcome.kind, outcome.json["errorMessage"]), ("error", "nobody handled it"), "outcome")
    check(h.instance.wait(), 1, "exit code")


@case("node")
def stream_uncaught(h):
    """an error that nobody caught ends a stream with trailers"""
    h.start("index.stream_uncaught", root="commonjs")
    outcome = h.invoke(None)
    check((outcome.body, outcome.trailer_error["errorMessage"]), (b"half", "in the middle"), "outcome")
    check(h.instance.wait(), 1, "exit code")


@case("node")
def stream_truncated(h):
    """a stream that is never ended does not hang"""
    h.start("index.stream_truncated", root="commonjs")
    outcome = h.invoke(None)
    check((outcome.body, outcome.error_type), (b"half", "Runtime.HandlerStalled"), "outcome")
    h.finish()


@case("node")
def module_entry(h):
    """bootstrap.mjs is the same bootstrap"""
    h.api = RuntimeApi()
    env = {"_HANDLER": "basic.echo", "LAMBDA_TASK_ROOT": str(table.FUNCTIONS), "AWS_LAMBDA_RUNTIME_API": h.api.address}
    h.run([h.binary, RUNTIMES / "node/bootstrap.mjs"], env, table.FUNCTIONS)
    check(h.instance.status() + h.instance.status(), b"RP", "status bytes")
    h.instance.release()
    check(h.invoke(1).json, 1, "answer")
    h.finish()


@case("node")
def preload(h):
    """preload.cjs takes the frame and leaves no trace"""
    script = RUNTIMES / "node/preload.cjs"
    env = {"NODE_OPTIONS": f"--no-deprecation --require {script}"}
    h.run([h.binary, "server.js"], env, table.FUNCTIONS / "servers")
    check(h.instance.status(), b"R", "status byte")
    h.instance.release({"FROM_FRAME": "yes"})
    check(h.instance.wait(), 0, "exit code")
    check(h.instance.output()[0], '["yes","--no-deprecation"]\nchild yes\n', "output")
    check(h.instance.status(), b"", "status after the end")


@case("python")
def exits(h):
    """sys.exit in a handler answers the invocation, then ends the process"""
    h.start("pkg.deep.app.leaves")
    outcome = h.invoke(None)
    check((outcome.kind, outcome.error_type), ("error", "Runtime.ExitError"), "outcome")
    check(h.instance.wait(), 5, "exit code")


@case("python")
def one_loop(h):
    """coroutines run on one event loop, alone and four at once"""
    h.start("pkg/deep/app.coroutine")
    for n in range(3):
        check(h.invoke(None, f"id-{n}").json, {"loops": 1}, "answer")
    h.finish()
    h.check_violations()
    h.instance.close()
    h.start("pkg/deep/app.coroutine", env={"AWS_LAMBDA_MAX_CONCURRENCY": "4"})
    for n in range(8):
        h.api.send(f"id-{n}", None)
    for _ in range(8):
        check(h.api.outcome()[1].json, {"loops": 1}, "answer")
    h.finish()


@case("python")
def async_stream(h):
    """an async generator streams"""
    h.start("pkg/deep/app.async_stream")
    check(h.invoke(["a", "b"]).body, b"ab", "body")
    h.finish()


@case("python")
def logging(h):
    """logging has a plain format, and its levels work"""
    h.start("pkg/deep/app.logs")
    h.invoke(None)
    check(h.finish()[1], "[INFO] app: in form\n", "log")


@case("python")
def reseeds(h):
    """random is seeded from the frame when it is loaded"""
    import random

    h.start("pkg/deep/app.first_random")
    random.seed(int.from_bytes(bytes(range(32)), "little"))
    check(h.invoke(None).json, random.getrandbits(64), "first random number")
    h.finish()


@case("python")
def stack(h):
    """the stack of an error starts in the function's own code"""
    h.start("basic.fail")
    stack = h.invoke(None).json["stackTrace"]
    check(len(stack), 1, f"frames in {stack}")
    check_contains(stack[0], "basic.py", "frame")
    h.finish()


@case("python")
def sitecustomize(h):
    """sitecustomize.py takes the frame and leaves no trace"""
    env = {"PYTHONPATH": str(RUNTIMES / "python"), "STRATOS_STATUS_FD": "4"}
    h.run([h.binary, "-B", "server.py"], env, table.FUNCTIONS / "servers")
    check(h.instance.status(), b"R", "status byte")
    h.instance.release({"FROM_FRAME": "yes"})
    check(h.instance.wait(), 0, "exit code")
    check(h.instance.output()[0], "['yes', None]\nchild yes\n", "output")
    check(h.instance.status(), b"", "status after the end")


@both
def example(h):
    """the hello example greets"""
    handler = {"node": "index.handler", "python": "app.handler"}[h.language]
    h.start(handler, root=RUNTIMES.parent / "examples" / f"hello-{h.language}")
    check(h.invoke({"name": "Ada"}).json["message"], "Hello, Ada!", "greeting")
    check(h.invoke(None, "id-2").json["message"], "Hello, world!", "greeting without a name")
    check(h.finish()[0], "greeting Ada (request id-1)\ngreeting world (request id-2)\n", "log")
