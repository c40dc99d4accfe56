"""What functions may ask of the platform: ``from stratos import on_restore``.

The other half of this file is the start protocol, shared by ``bootstrap.py`` and ``sitecustomize.py``:

- fd 4, write end of a pipe: one byte ``R`` when the first line of the runtime runs, one byte ``P`` when it is about to park
- fd 3, read end of a pipe: one release frame; the runtime blocks in read(2) until it comes

Frame, little endian: magic ``SREL``, u32 version = 1, u64 wall clock in ns since the epoch, 32 bytes of seed, u32 length, then that
many bytes of ``KEY=VALUE\\0``. The read must block: a checkpoint is taken there, and an interrupted blocking read restarts cleanly.

``STRATOS_CHECKPOINT=1`` marks a process that is started to be checkpointed there: many will go on from its read, each with a frame
of its own, and must not draw the same random numbers. All other starts pay nothing for this.

This module is in the path of every cold start: it imports nothing that the interpreter has not loaded already.
"""

import os
import sys

__all__ = ["on_restore"]

_PARK_FD = 3
_STATUS_FD = 4
_HEADER_BYTES = 52
# The whole frame fits into a pipe, so that the agent never waits for this process to read it.
_ENVIRONMENT_LIMIT = (64 << 10) - _HEADER_BYTES

_restore_hooks = []
_on_first_hook = None


def on_restore(hook):
    """Registers ``hook`` (a function or coroutine function without parameters) to run after this process is released or restored,
    before its first event or request. Usable as a decorator."""
    if not callable(hook):
        raise TypeError("on_restore expects a function")
    _restore_hooks.append(hook)
    if len(_restore_hooks) == 1 and _on_first_hook is not None:
        _on_first_hook()
    return hook


def _is_attached():
    """True when the agent started this process. Run by hand, the numbers are free or belong to someone else."""
    fifo, kind = 0o010000, 0o170000
    try:
        park, status = os.fstat(_PARK_FD), os.fstat(_STATUS_FD)
    except OSError:
        return False
    return park.st_mode & kind == fifo and status.st_mode & kind == fifo and park.st_ino != status.st_ino


_attached = _is_attached()

# True in a process that is started to be checkpointed. The program and its children must not see the variable.
_checkpoint = os.environ.pop("STRATOS_CHECKPOINT", None) == "1" and _attached
# What a server is asked before, from `prime` in stratos.toml.
_prime = os.environ.pop("STRATOS_PRIME", None)
if _checkpoint:
    import stratos_reseed  # Now, so that nothing is left to import after the release.


def _mark(letter):
    """Writes one status byte, ``b"R"`` or ``b"P"``."""
    if _attached:
        os.write(_STATUS_FD, letter)


def _read_exactly(length):
    parts = b""
    while len(parts) < length:
        part = os.read(_PARK_FD, length - len(parts))
        if not part:
            os._exit(0)  # The agent is gone and nobody will ever release this process.
        parts += part
    return parts


def _wait_for_release():
    """Blocks until the release frame is there, applies its environment, and reseeds the generators that are already loaded."""
    if not _attached:
        return
    header = _read_exactly(_HEADER_BYTES)
    length = int.from_bytes(header[48:52], "little")
    if header[:4] != b"SREL" or int.from_bytes(header[4:8], "little") != 1 or length > _ENVIRONMENT_LIMIT:
        raise RuntimeError("the release frame on fd 3 is not one this runtime understands")
    for entry in _read_exactly(length).split(b"\0"):
        key, equals, value = entry.partition(b"=")
        if key and equals:
            os.environb[key] = value
            if key == b"TZ":
                _take_time_zone()
    os.close(_PARK_FD)
    _reseed(header[16:48])


def _take_time_zone():
    """Before a checkpoint the C library may have looked at the variable, and does so once."""
    import time

    time.tzset()


def _announce_park():
    """Tells the agent that this process parks next."""
    if _checkpoint:
        stratos_reseed.prepare()
        _keep_what_there_is()
    _mark(b"P")


def _keep_what_there_is():
    """Collects what is garbage by now, and has the collector never look at the rest again: it writes to each object that it looks at,
    and a clone would copy all of them for that."""
    import gc

    gc.collect()
    gc.freeze()


def _park():
    """Tells the agent that this process parks, and blocks until it is released."""
    _announce_park()
    _wait_for_release()


def _reseed(seed):
    """A module that is not loaded yet will seed itself from the kernel."""
    if _checkpoint:
        stratos_reseed.reseed(seed)
        return
    random, ssl = sys.modules.get("random"), sys.modules.get("ssl")
    if random is not None:
        random.seed(int.from_bytes(seed, "little"))
    if ssl is not None:
        ssl.RAND_add(seed, 32.0)


class _WhenImported:
    """A finder of modules that finds none itself, but calls ``then(module)`` once ``name`` has been imported."""

    def __init__(self, name, then):
        self._name = name
        self._then = then
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in sys.meta_path)), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                self._then(module)

            spec.loader.exec_module = exec_module
        return spec
