"""Cases of processes that are started to be checkpointed: where they park, and what makes each restored one unlike the others.

A test cannot clone a process; it gives two of them the same seed, or different ones.
"""

import json
import os
import time
from email.utils import parsedate_to_datetime

from cases import both, case
from harness import check, check_contains
from instance import SEED, release_frame

OTHER_SEED = SEED[::-1]
FROM_FRAME = {"FROM_FRAME": "yes"}
HOOKS = ["first yes", "second"]


def servers(language, *scripts):
    """Registers a function `(harness, script)` for each server; its docstring, with the server's name, names the cases."""

    def register(function):
        for script in scripts:

            def run(h, script=script):
                function(h, script)

            run.__doc__ = f"{function.__doc__} ({script if isinstance(script, str) else script[-1]})"
            case(language)(run)
        return function

    return register


node_servers = servers("node", "plain.cjs", "module.mjs")
python_servers = servers("python", *(["app.py", name] for name in ("http", "asyncio", "select", "accept")))


def release(h, seed=SEED):
    """Sees a server through `P` and the release."""
    check(h.instance.status(), b"P", "second status byte")
    h.instance.release(frame=release_frame(FROM_FRAME, seed=seed))


def numbers_of(h, script, seed):
    """The random numbers that a server draws after its release; the server is stopped."""
    h.serve(script)
    release(h, seed)
    _, answer = h.request()
    h.instance.close()
    check(answer["early"] in answer["numbers"], False, "a number is repeated")
    return answer["numbers"]


@node_servers
@python_servers
def draws_from_seed(h, script):
    """a server that is checkpointed draws the numbers of its frame's seed"""
    first = numbers_of(h, script, SEED)
    check(numbers_of(h, script, SEED), first, "numbers of the same seed")
    other = numbers_of(h, script, OTHER_SEED)
    check(set(first) & set(other), set(), "numbers of two seeds in common")
    check(len(set(first)), len(first), "different numbers of one seed")


@both
def handler_draws_from_seed(h):
    """a handler that is checkpointed draws the numbers of its frame's seed"""
    answers = []
    for seed in (SEED, SEED, OTHER_SEED):
        h.start("handlers.numbers", root="checkpoint", env={"STRATOS_CHECKPOINT": "1"}, release=False)
        check(h.instance.status() + h.instance.status(), b"RP", "status bytes")
        h.instance.release(frame=release_frame({}, seed=seed))
        answers.append(h.invoke(None).json)
        h.finish()
        h.check_violations()
        h.instance.close()
    check(answers[0], answers[1], "answers with the same seed")
    check(set(answers[0]) & set(answers[2]), {None}, "numbers of two seeds in common, and the variable")


def run_client(h, seed, status):
    """What the hooks of a client saw; `status` is what it says, after `R`, before it is released."""
    h.run_python("client.py", "snapstart", {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"})
    check(b"".join(h.instance.status() for _ in status), status, "status bytes")
    h.instance.release(frame=release_frame(FROM_FRAME, seed=seed))
    check(h.instance.wait(), 0, "exit code")
    output, errors = h.instance.output()
    check(errors, "", "stderr")
    h.instance.close()
    seen, variable = json.loads(output)
    check(variable, None, "STRATOS_CHECKPOINT")
    return seen


@case("python")
def client_joins_hooks(h):
    """a client that is checkpointed takes its frame before the first hook after the restore"""
    first, again, other = (run_client(h, seed, b"BP") for seed in (SEED, SEED, OTHER_SEED))
    order = [["before two", None], ["before one", None], ["after one", "yes"], ["after two", "yes"]]
    check([entry[:2] for entry in first], order, "hooks, and the frame's variable")
    numbers = [[entry[2] for entry in seen[2:]] for seen in (first, again, other)]
    check(numbers[1], numbers[0], "numbers of the same seed")
    check(set(numbers[0]) & set(numbers[2]), set(), "numbers of two seeds in common")


@node_servers
@python_servers
def parks_once(h, script):
    """a parked server runs its hooks once, before the first request, and leaves nothing behind"""
    h.serve(script)
    release(h)
    _, answer = h.request()
    check(answer["hooks"], HOOKS, "hooks at the first request")
    if h.language == "node":
        check(answer["variable"], [None, "undefined"], "STRATOS_CHECKPOINT as the server and its child see it")
        check(answer["patched"], False, "net.Server is patched")
    else:
        check(answer["variable"], [None, "None"], "STRATOS_CHECKPOINT as the server and its child see it")
        check(answer["replaced"], ["socket", False, "selectors", "builtin_function_or_method"], "functions after the park")
        check(answer["initialised"], True, "the server was ready when it parked")
    check(h.request()[1]["hooks"], HOOKS, "hooks at the second request")
    check(h.instance.has_status(), False, "there is a third status byte")
    check(h.instance.output()[1], "", "stderr")


@node_servers
@python_servers
def hooks_without_checkpoint(h, script):
    """a server that is not checkpointed takes the frame first, and runs its hooks once it listens"""
    h.serve(script, checkpoint=False)
    check(h.instance.has_status(), False, "there is a second status byte")
    h.instance.release(FROM_FRAME)
    answer = wait_for(h)
    check(answer["hooks"], HOOKS, "hooks at the first request")
    check(h.instance.has_status(), False, "there is a second status byte")


def wait_for(h):
    """The first answer of a server that nothing tells to be up."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return h.request()[1]
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@node_servers
def renews_crypto(h, script):
    """what node:crypto has drawn in advance is dropped"""
    h.serve(script)
    release(h)
    _, answer = h.request()
    check(answer["uuids"], 128, "UUIDs drawn and thrown away")
    check(answer["intsRenewed"], True, "the batch of randomInt was renewed")


@servers("node", "plain.cjs")
def parks_settled(h, script):
    """a server that calls itself once it listens has done so when it parks, and has no connection left"""
    h.serve(script)
    check(h.instance.status(), b"P", "second status byte")
    fds = f"/proc/{h.instance.process.pid}/fd"
    sockets = [fd for fd in os.listdir(fds) if os.readlink(f"{fds}/{fd}").startswith("socket:")]
    check((h.instance.output()[0], len(sockets)), ("warm\n", 1), "output and sockets at the park")


@servers("node", "plain.cjs")
@servers("python", ["app.py", "http"], ["app.py", "asyncio"])
def date(h, script):
    """the first response after a long park has the right date"""
    h.serve(script)
    check(h.instance.status(), b"P", "second status byte")
    time.sleep(2.5)
    h.instance.release(FROM_FRAME)
    now = time.time()
    headers, answer = h.request()
    age = now - parsedate_to_datetime(headers["Date"]).timestamp()
    check(age < 1, True, f"date header is {age:.3f} s old")
    check(answer["hooks"], HOOKS, "hooks, whose timer did not count the park")


@servers("node", "late.cjs")
@servers("python", ["app.py", "late"])
def reads_late(h, script):
    """nothing is read and nothing told before the server listens on its port"""
    h.serve(script)
    frame = release_frame(FROM_FRAME)
    h.instance.release(frame=frame)
    while not h.instance.stdout:
        time.sleep(0.01)
    words = h.instance.output()[0].split()
    check(words[:-1], {"node": ["undefined"], "python": []}[h.language], "globalThis.stratos in a worker")
    check(h.instance.unread(), len(frame), "bytes left in the pipe")
    check(h.instance.has_status(), False, "there is a status byte")
    port, h.port = h.port, int(words[-1])
    try:
        h.request()
    except OSError:
        pass  # It only had to connect.
    h.port = port
    check(h.instance.status(), b"P", "second status byte")
    check(len(h.request()[1]["numbers"]) > 0, True, "answer")
    check(h.instance.unread(), 0, "bytes left in the pipe")


@servers("node", "plain.cjs")
@servers("python", ["app.py", "http"])
def server_abandoned(h, script):
    """a parked server whose agent is gone exits with 0"""
    h.serve(script)
    check(h.instance.status(), b"P", "second status byte")
    h.instance.abandon()
    check(h.instance.wait(), 0, "exit code")


@servers("node", "module.mjs")
@servers("python", ["app.py", "http"], ["app.py", "asyncio"])
def server_bad_frame(h, script):
    """a release frame of another version ends the server"""
    h.serve(script)
    check(h.instance.status(), b"P", "second status byte")
    h.instance.release(frame=h.frame(version=2))
    check(h.instance.wait(), 1, "exit code")
    check_contains(h.instance.output()[1], "the release frame on fd 3", "log")


@servers("node", "bad_hook.cjs")
@servers("python", ["app.py", "bad_hook"])
def server_bad_hook(h, script):
    """a restore hook that fails ends the server"""
    h.serve(script)
    release(h)
    check(h.instance.wait(), 1, "exit code")
    check_contains(h.instance.output()[1], "hook", "log")


@servers("python", ["app.py", "http"])
def renews_modules(h, script):
    """what Python modules hold is renewed, each from a seed of its own"""
    h.serve(script)
    release(h)
    _, answer = h.request()
    words = [int.from_bytes(SEED[at : at + 4], "little") for at in range(0, 16, 4)]
    check(answer["added"], [[words], [SEED[16:].hex(), 16]], "calls of numpy.random.seed and RAND_add")
    check((answer["names_kept"], answer["node"]), (False, None), "state of tempfile and uuid")


@servers("python", ["app.py", "uvicorn"], ["app.py", "uvloop"])
def parks_early(h, script):
    """uvicorn parks before it has written down the date, and uvloop before it waits in C"""
    h.serve(script)
    release(h)
    _, answer = h.request()
    check(answer["initialised"], False, "it went on after listening")
    check(answer["hooks"], HOOKS, "hooks at the first request")


@servers("python", ["app.py", "forking"])
def child_never_parks(h, script):
    """a child that waits for the connections of its parent never parks"""
    h.serve(script)
    while b"goes on" not in b"".join(h.instance.stdout):
        time.sleep(0.01)
    check(h.instance.has_status(), False, "there is a second status byte")
