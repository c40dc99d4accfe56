"""Starts a runtime as the agent does: stdout and stderr are pipes, fd 3 is the park pipe, fd 4 the status pipe."""

import fcntl
import os
import select
import struct
import subprocess
import termios
import threading

from runtime_api import PATIENCE_SECONDS

SEED = bytes(range(32))


def reserve_low_descriptors():
    """Keeps this process from using 3 to 9 itself, so that a child can have anything there."""
    while (fd := os.open(os.devnull, os.O_RDONLY)) < 10:
        pass
    os.close(fd)


def release_frame(env, magic=b"SREL", version=1, seed=SEED):
    """The frame that lets a parked runtime go on."""
    block = b"".join(f"{key}={value}\0".encode() for key, value in env.items())
    return struct.pack("<4sIQ32sI", magic, version, 1_700_000_000_000_000_000, seed, len(block)) + block


class Instance:
    """A runtime process and its pipes."""

    def __init__(self, argv, env, cwd, attached=True):
        park_read, self._park = os.pipe()
        self._status, status_write = os.pipe()
        # Packet pipes: each write of the child is one read here, so that a test can count them.
        stdout_read, stdout_write = os.pipe2(os.O_DIRECT)
        stderr_read, stderr_write = os.pipe2(os.O_DIRECT)

        def place():
            os.dup2(park_read, 3)
            os.dup2(status_write, 4)

        self.process = subprocess.Popen(
            argv,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": ":UTC", "HOME": "/tmp", **env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout_write,
            stderr=stderr_write,
            preexec_fn=place if attached else None,
            pass_fds=(3, 4) if attached else (),
        )
        for fd in (park_read, status_write, stdout_write, stderr_write):
            os.close(fd)
        self.stdout, self.stderr = [], []
        self._readers = [self._collect(stdout_read, self.stdout), self._collect(stderr_read, self.stderr)]

    @staticmethod
    def _collect(fd, pieces):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 20)

        def read():
            while piece := os.read(fd, 1 << 16):
                pieces.append(piece)
            os.close(fd)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def status(self):
        """The next status byte, or nothing when the process has gone."""
        if not select.select([self._status], [], [], PATIENCE_SECONDS)[0]:
            raise TimeoutError("no status byte has come")
        return os.read(self._status, 1)

    def release(self, env=None, frame=None, piecewise=False):
        """Writes the release frame, byte by byte if asked."""
        data = frame if frame is not None else release_frame(env or {})
        for piece in [data[at : at + 1] for at in range(len(data))] if piecewise else [data]:
            os.write(self._park, piece)

    def unread(self):
        """How many bytes the park pipe holds."""
        return struct.unpack("i", fcntl.ioctl(self._park, termios.FIONREAD, bytes(4)))[0]

    def has_status(self):
        """Whether a status byte, or the end, can be read."""
        return bool(select.select([self._status], [], [], 0)[0])

    def abandon(self):
        """Closes the park pipe without a frame, as a dead agent does."""
        os.close(self._park)
        self._park = None

    def wait(self):
        """The exit code, once all output has been read."""
        code = self.process.wait(timeout=PATIENCE_SECONDS)
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.wait()
        for fd in (self._park, self._status):
            if fd is not None:
                os.close(fd)
        self._park = self._status = None

    def output(self):
        return b"".join(self.stdout).decode(), b"".join(self.stderr).decode()
