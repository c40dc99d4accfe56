"""Runs hooks as AWS's Runtime API client does, and says what they saw."""

import json
import os
import random

from snapshot_restore_py import get_after_restore, get_before_snapshot, register_after_restore, register_before_snapshot

seen = []


def note(what):
    seen.append([what, os.environ.get("FROM_FRAME"), random.random()])


for name in ("one", "two"):
    register_before_snapshot(note, f"before {name}")
    register_after_restore(note, f"after {name}")

before = get_before_snapshot()
while before:
    hook, args, named = before.pop()
    hook(*args, **named)
# Here it would ask for restore/next.
for hook, args, named in get_after_restore():
    hook(*args, **named)
print(json.dumps([seen, os.environ.get("STRATOS_CHECKPOINT")]))
