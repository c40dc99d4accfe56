"""The functions of basic.mjs, in Python: both runtimes must answer the same events in the same way."""

import os
import signal
import threading
import time

from stratos import on_restore


def echo(event, context):
    return event


def fail(event, context):
    raise TypeError("ünusual")


def fail_odd_class(event, context):
    raise type("Bad 2\r\nName", (Exception,), {})("odd")


def unserializable(event, context):
    return {"big": object()}


def nothing(event, context):
    pass


def size(event, context):
    return {"length": len(event["data"])}


def large(event, context):
    return {"data": "ß" * event["length"]}


time.localtime(0)  # The time zone of before the release has been used.


def zoned(event, context):
    return [len(os.environ[event]), time.localtime(0).tm_hour]


def environment(event, context):
    return {name: os.environ.get(name) for name in event}


def context(event, context):
    return {
        "id": context.aws_request_id,
        "name": context.function_name,
        "version": context.function_version,
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
        "group": context.log_group_name,
        "stream": context.log_stream_name,
        "traceparent": context.traceparent,
        "tracestate": context.tracestate,
        "client": context.client_context.custom["key"],
        "identity": context.identity.cognito_identity_id,
        "remaining": context.get_remaining_time_in_millis(),
        "trace": os.environ["_X_AMZN_TRACE_ID"],
    }


def crash(event, context):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(event, context):
    os._exit(7)


def print_two(event, context):
    print("first ünïcode")
    print("second", "line")


def print_much(event, context):
    for i in range(2000):
        print(i, "x" * 1000)
    os._exit(3)


def stream(event, context):
    yield from event


def stream_http(event, context):
    yield {"statusCode": 201, "headers": {"x-a": "b"}}
    yield "body"


def stream_large(event, context):
    for _ in range(event["count"]):
        yield b"a" * event["size"]


def stream_empty(event, context):
    yield from ()


def stream_fail_early(event, context):
    raise IndexError("early")
    yield


def stream_fail_late(event, context):
    yield "half"
    raise IndexError("late ✗")


running = 0
lock = threading.Lock()
together = threading.Event()


def rendezvous(event, context):
    global running
    with lock:
        running += 1
        if running == event["parties"]:
            together.set()
    together.wait()
    return {"running": running}


hooks = []


@on_restore
def first():
    hooks.append(f"first {os.environ.get('FROM_FRAME')}")


@on_restore
async def second():
    hooks.append("second")


def restored(event, context):
    return hooks
