"""Draws from every generator before it parks and after. Run as `python3.13 -S -B draw.py`."""

import json
import os
import random
import secrets
import ssl
import sys
import uuid

sys.path.insert(0, "/opt/stratos")
import stratos  # noqa: E402


def draw():
    return [
        str(random.random()),
        str(random.getrandbits(64)),
        secrets.token_hex(16),
        str(uuid.uuid4()),
        ssl.RAND_bytes(16).hex(),
        os.urandom(16).hex(),
    ]


draw()
stratos._park()
sys.stdout.write(json.dumps(draw() + draw()) + "\n")
sys.stdout.flush()
os._exit(0)
