"""What a case works with: one runtime process with its own Runtime API server, and checks that explain themselves."""

import http.client
import json
import os
import socket
from pathlib import Path

from instance import Instance, release_frame
from runtime_api import PATIENCE_SECONDS, RuntimeApi

TESTS = Path(__file__).resolve().parent
RUNTIMES = TESTS.parent
FUNCTIONS = TESTS / "functions"


def check(actual, expected, what):
    """Fails with both values unless they are equal."""
    if actual != expected:
        raise AssertionError(f"{what}: got {shorten(actual)}, expected {shorten(expected)}")


def check_contains(text, part, what):
    """Fails with the text unless it contains `part`."""
    if part not in text:
        raise AssertionError(f"{what}: {shorten(part)} is not in {shorten(text)}")


def shorten(value):
    text = repr(value)
    return text if len(text) < 600 else f"{text[:600]}... ({len(text)} characters)"


class Harness:
    """Starts and stops what one case needs."""

    def __init__(self, language, binary):
        self.language = language
        self.binary = binary
        self.api = None
        self.instance = None

    def start(self, handler, root="", env=None, api=None, attached=True, frame_env=None, release=True):
        """Starts the bootstrap on `handler`; with `release`, sees it through `R`, `P` and the release frame."""
        self.api = api or RuntimeApi()
        task_root = FUNCTIONS / root
        command = {
            "node": [self.binary, RUNTIMES / "node/bootstrap.cjs"],
            "python": [self.binary, "-S", "-B", RUNTIMES / "python/bootstrap.py"],
        }[self.language]
        self.run(
            command,
            {
                "_HANDLER": handler,
                "LAMBDA_TASK_ROOT": str(task_root),
                "AWS_LAMBDA_RUNTIME_API": self.api.address,
                "AWS_LAMBDA_FUNCTION_NAME": "test",
                "AWS_LAMBDA_FUNCTION_VERSION": "3",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
                "AWS_LAMBDA_LOG_GROUP_NAME": "/stratos/test",
                "AWS_LAMBDA_LOG_STREAM_NAME": "one",
                **(env or {}),
            },
            task_root,
            attached,
        )
        if attached and release:
            check(self.instance.status(), b"R", "first status byte")
            check(self.instance.status(), b"P", "second status byte")
            self.instance.release(frame_env)

    def serve(self, script, env=None, checkpoint=True):
        """Starts a server of `functions/checkpoint`, as an argument list or a file name, up to its `R`."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        pipes = {
            "node": {"NODE_OPTIONS": f"--require={RUNTIMES / 'node/preload.cjs'}"},
            "python": {"PYTHONPATH": str(RUNTIMES / "python"), "STRATOS_STATUS_FD": "4", "PYTHONUNBUFFERED": "1"},
        }[self.language]
        pipes["PYTHONDONTWRITEBYTECODE"] = "1"
        marks = {"PORT": str(self.port), **({"STRATOS_CHECKPOINT": "1"} if checkpoint else {})}
        arguments = [script] if isinstance(script, str) else script
        self.run([self.binary, *arguments], {**pipes, **marks, **(env or {})}, FUNCTIONS / "checkpoint")
        check(self.instance.status(), b"R", "first status byte")

    def run_python(self, script, root, env):
        """Starts a program that is to be checkpointed and listens on nothing, up to its `R`."""
        pipes = {"PYTHONPATH": str(RUNTIMES / "python"), "STRATOS_STATUS_FD": "4", "PYTHONDONTWRITEBYTECODE": "1"}
        self.run([self.binary, script], {**pipes, "STRATOS_CHECKPOINT": "1", **env}, FUNCTIONS / root)
        check(self.instance.status(), b"R", "first status byte")

    def request(self, path="/"):
        """The server's answer, as headers and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.headers, json.loads(response.read())
        finally:
            connection.close()

    def run(self, argv, env, cwd, attached=True):
        """Starts any command with the pipes of an instance."""
        self.instance = Instance([os.fspath(part) for part in argv], env, cwd, attached)

    def invoke(self, event, identity="id-1", headers=None):
        """Sends one event and returns its outcome."""
        self.api.send(identity, event, headers)
        answered, outcome = self.api.outcome()
        check(answered, identity, "answered invocation")
        return outcome

    def frame(self, **fields):
        """A release frame, perhaps a broken one."""
        return release_frame({}, **fields)

    def finish(self):
        """Hangs up like the agent; the runtime must exit with 0. Returns its stdout and stderr."""
        self.api.hang_up()
        check(self.instance.wait(), 0, "exit code after the agent hung up")
        return self.instance.output()

    def check_violations(self):
        if self.api is not None:
            check(self.api.violations, [], "violations of the Runtime API")

    def transcript(self):
        """What the process printed, for a failure."""
        if self.instance is None:
            return ""
        stdout, stderr = self.instance.output()
        return f"--- stdout\n{stdout[-2000:]}\n--- stderr\n{stderr[-2000:]}\n---\n"

    def close(self):
        if self.instance is not None:
            self.instance.close()
        if self.api is not None:
            self.api.hang_up()
