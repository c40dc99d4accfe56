"""One event, one outcome: the cases that fit on a line."""

from harness import FUNCTIONS, check, check_contains

BOTH = ("node", "python")
NODE = ("node",)
PYTHON = ("python",)

# languages, handler, root, event, answer
ANSWERS = [
    (BOTH, "basic.echo", "", {"text": "ünïcödé 😀 \u2028 \\ \"", "n": [1, -2.5, 1e21, True, None, {}]}, ...),
    (BOTH, "basic.echo", "", "text alone", ...),
    (BOTH, "basic.echo", "", None, ...),
    (BOTH, "basic.echo", "", b' \n{"spaces" : "around"}\r\n ', {"spaces": "around"}),
    (BOTH, "basic.nothing", "", {}, None),
    (NODE, "index.callback", "commonjs", 1, {"got": 1}),
    (NODE, "index.sync", "commonjs", 1, {"got": 1}),
    (NODE, "index.silent", "commonjs", 1, None),
    (NODE, "index.legacy", "commonjs", 1, "legacy"),
    (NODE, "index.waits", "commonjs", 1, {"finished": True}),
    (NODE, "index.does_not_wait", "commonjs", 1, "at once"),
    (NODE, "index.nested.api.get", "commonjs", 1, "hello"),
    (NODE, "commonjs/index.sync", "", 1, {"got": 1}),
    (NODE, "index.dependency", "commonjs", 1, "dep"),
    (NODE, "index.handler", "esm", 1, "top-level await"),
    (NODE, "index.inside", "esm", 1, "inside default"),
    (NODE, "esm/index.handler", "", 1, "top-level await"),
    (NODE, "plain.handler", "esm", 1, "cjs"),
    (PYTHON, "pkg/deep/app.numbers", "", None, [3, 1.5, 2**70]),
    (PYTHON, "pkg.deep.app.dependency", "", None, "packaged"),
    (PYTHON, "pkg.deep.app.api", "", None, "object"),
]

# languages, handler, root, event, error type in the header, text in the message
ERRORS = [
    (BOTH, "basic.fail", "", None, "Function.TypeError", "ünusual"),
    (BOTH, "basic.fail_odd_class", "", None, "Function.UnhandledError", "odd"),
    (BOTH, "basic.unserializable", "", None, "Runtime.MarshalError", ""),
    (BOTH, "basic.echo", "", b"{not json", "Runtime.UnmarshalError", "not JSON"),
    (BOTH, "basic.echo", "", b"", "Runtime.UnmarshalError", "not JSON"),
    (NODE, "index.callback_error", "commonjs", None, "Function.RangeError", "by callback"),
    (NODE, "index.throws_string", "commonjs", None, "Function.UnhandledError", "just text"),
    (NODE, "index.stalled", "commonjs", None, "Runtime.HandlerStalled", "nothing is left"),
    (PYTHON, "basic.echo", "", b"1 2", "Runtime.UnmarshalError", "Extra data"),
    (PYTHON, "pkg/deep/app.not_a_number", "", None, "Runtime.MarshalError", "JSON"),
    (PYTHON, "pkg/deep/app.bad_stream", "", None, "Function.TypeError", "must yield"),
]

# languages, handler, root, error type in the header, text in the message
INIT_ERRORS = [
    (BOTH, "absent.handler", "", "Runtime.ImportModuleError", "absent"),
    (BOTH, "basic.absent", "", "Runtime.HandlerNotFound", "absent"),
    (BOTH, "number.handler", "broken", "Runtime.HandlerNotFound", "not a function"),
    (BOTH, "basic", "", "Runtime.MalformedHandlerName", "basic"),
    (BOTH, "", "", "Runtime.MalformedHandlerName", ""),
    (BOTH, "../functions/basic.echo", "", "Runtime.MalformedHandlerName", ".."),
    (BOTH, "syntax.handler", "broken", "Runtime.UserCodeSyntaxError", ""),
    (BOTH, "missing.handler", "broken", "Runtime.ImportModuleError", "no"),
    (NODE, "syntax_cjs.handler", "broken", "Runtime.UserCodeSyntaxError", ""),
    (NODE, "throws.handler", "broken", "Function.RangeError", "at load"),
    (NODE, "later.handler", "broken", "Function.RangeError", "later"),
    (NODE, "stalled.handler", "broken", "Runtime.HandlerStalled", "nothing is left"),
    (NODE, "index.not_a_function", "commonjs", "Runtime.HandlerNotFound", "is a number"),
    (PYTHON, "throws.handler", "broken", "Function.IndexError", "at load"),
]


def cases():
    """Yields language, name and function for each line."""
    for languages, handler, root, event, answer in ANSWERS:
        for language in languages:
            yield language, f"{root}/{handler} answers {event!r}"[:90], _answer(handler, root, event, answer)
    for languages, handler, root, event, kind, message in ERRORS:
        for language in languages:
            yield language, f"{root}/{handler} fails with {kind}", _error(handler, root, event, kind, message)
    for languages, handler, root, kind, message in INIT_ERRORS:
        for language in languages:
            yield language, f"{root}/{handler} does not load: {kind}", _init_error(handler, root, kind, message)


def _answer(handler, root, event, answer):
    def run(h):
        h.start(handler, root)
        outcome = h.invoke(event)
        check((outcome.kind, outcome.json), ("response", event if answer is ... else answer), "answer")
        stdout, stderr = h.finish()
        check((stdout, stderr), ("", ""), "output")

    return run


def _error(handler, root, event, kind, message):
    def run(h):
        h.start(handler, root)
        outcome = h.invoke(event)
        check((outcome.kind, outcome.error_type), ("error", kind), "outcome")
        check_contains(outcome.json["errorMessage"], message, "message")
        trace = outcome.json["trace" if h.language == "node" else "stackTrace"]
        check(isinstance(trace, list), True, "the trace is a list")
        check_contains(h.finish()[1], message, "log")

    return run


def _init_error(handler, root, kind, message):
    def run(h):
        h.start(handler, root, release=False)
        check(h.instance.status(), b"R", "status byte")
        _, outcome = h.api.outcome()
        check((outcome.kind, outcome.error_type), ("init-error", kind), "outcome")
        check_contains(outcome.json["errorMessage"], message, "message")
        check(h.instance.wait(), 1, "exit code")
        check(h.instance.status(), b"", "status after the end: it never parked")
        check_contains(h.instance.output()[1], message, "log")

    return run
