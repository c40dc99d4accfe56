import os
import random

random.random()


def numbers(event, context):
    return [random.random(), random.random(), os.environ.get("STRATOS_CHECKPOINT")]
