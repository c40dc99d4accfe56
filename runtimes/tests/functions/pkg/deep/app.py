import asyncio
import decimal
import logging
import random
import sys

import packaged

logging.getLogger("early").info("hidden: the root logger starts at WARNING")
loops = set()


async def coroutine(event, context):
    await asyncio.sleep(0)
    loops.add(id(asyncio.get_running_loop()))
    return {"loops": len(loops)}


async def async_stream(event, context):
    for piece in event:
        await asyncio.sleep(0)
        yield piece


def numbers(event, context):
    return [decimal.Decimal("3"), decimal.Decimal("1.5"), 2**70]


def not_a_number(event, context):
    return float("nan")


def dependency(event, context):
    return packaged.NAME


def logs(event, context):
    logging.getLogger("app").setLevel(logging.INFO)
    logging.getLogger("app").info("in %s", "form")


def leaves(event, context):
    sys.exit(5)


def first_random(event, context):
    return random.getrandbits(64)


def bad_stream(event, context):
    yield 42


class Api:
    def __call__(self, event, context):
        return "object"


api = Api()
