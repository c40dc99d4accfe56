"""What a program may have under way when it is checkpointed, and do after. Each item does something before and tells
after whether it went on as it should. Run as `python3.13 -S -B functional.py` it parks in between; a handler calls the
two halves."""

import asyncio
import concurrent.futures
import ctypes
import gc
import hashlib
import json
import mmap
import os
import platform
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref

OWN = "/var/task/functional.py"
ROUNDS = 100_000


class Node:
    """Something that can refer to itself."""


class Garbage:
    def before(self):
        lost, self.kept = Node(), Node()
        lost.itself, self.kept.itself = lost, self.kept
        self.lost, self.weak = weakref.ref(lost), weakref.ref(self.kept)

    def after(self):
        churn = [[i] for i in range(200_000)]
        for item in churn:
            item.append(item)
        del churn, item
        gc.collect()
        return self.lost() is None and self.weak() is self.kept


class Heap:
    def before(self):
        self.items = {i: f"item {i}" for i in range(20_000)}

    def after(self):
        return all(text == f"item {i}" for i, text in self.items.items())


class Clock:
    def before(self):
        self.monotonic = time.monotonic()

    def after(self):
        return time.monotonic() > self.monotonic and abs(time.time() - os.stat("/proc/self/stat").st_mtime) < 5


class OpenFile:
    def before(self):
        self.file = open(OWN, encoding="utf-8")
        self.line = self.file.readline()
        self.raw = os.open(OWN, os.O_RDONLY)
        os.lseek(self.raw, 10, os.SEEK_SET)

    def after(self):
        with open(OWN, encoding="utf-8") as file:
            text = file.read()
        return self.line + self.file.read() == text and os.read(self.raw, 5).decode() == text[10:15]


class NewFile:
    def before(self):
        pass

    def after(self):
        with open("/tmp/own", "w") as file:
            file.write("x" * 1000)
        return os.path.getsize("/tmp/own") == 1000


class Signal:
    def before(self):
        self.heard = []
        signal.signal(signal.SIGUSR2, lambda number, frame: self.heard.append(number))

    def after(self):
        os.kill(os.getpid(), signal.SIGUSR2)
        return self.heard == [signal.SIGUSR2]


class Asyncio:
    def before(self):
        self.loop = asyncio.new_event_loop()
        self.thread = self.loop.run_until_complete(self.in_thread())
        self.armed = self.loop.create_future()
        self.loop.call_later(0.001, self.armed.set_result, "fired")
        self.queue = asyncio.Queue()
        self.waiting = self.loop.create_task(self.queue.get())

    async def in_thread(self):
        return await asyncio.sleep(0.001), await self.loop.run_in_executor(None, threading.get_native_id)

    def after(self):
        async def more():
            self.queue.put_nowait("put")
            return await self.in_thread(), await self.armed, await self.waiting

        return self.loop.run_until_complete(more()) == (self.thread, "fired", "put")


class Pool:
    """A job that is being done when the checkpoint is made, in code that computes in vector registers."""

    def before(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(3)
        self.job = lambda rounds: hashlib.pbkdf2_hmac("sha512", b"a", b"b", rounds)
        list(self.pool.map(self.job, [10] * 3))
        self.under_way = self.pool.submit(self.job, ROUNDS)

    def after(self):
        later = self.pool.submit(self.job, 20)
        done = self.under_way.result() == self.job(ROUNDS) and later.result() == self.job(20)
        self.pool.shutdown()
        return done


class Threads:
    """Threads in a wait, in a sleep, and at work, each with something of its own."""

    def before(self):
        self.go, self.local, self.answers, self.ticks = threading.Event(), threading.local(), [], 0
        self.local.name = "first"
        started = threading.Barrier(4)

        def wait():
            self.local.name = "waiting"
            started.wait()
            self.go.wait()
            self.answers.append(self.local.name)

        def sleep():
            started.wait()
            while not self.go.is_set():
                time.sleep(0.005)
                self.ticks += 1

        def work():
            started.wait()
            count = 0
            while not self.go.is_set():
                count += 1
            self.answers.append(f"worked {count > 0}")

        self.threads = [threading.Thread(target=target, daemon=True) for target in (wait, sleep, work)]
        for thread in self.threads:
            thread.start()
        started.wait()

    def after(self):
        ticks = self.ticks
        while self.ticks == ticks:
            time.sleep(0.005)
        self.go.set()
        for thread in self.threads:
            thread.join()
        return self.local.name == "first" and sorted(self.answers) == ["waiting", "worked True"]


class ChildProcess:
    def before(self):
        pass

    def after(self):
        command = [sys.executable, "-S", "-c", "print(int(input()) * 7)"]
        return subprocess.run(command, input="6\n", capture_output=True, text=True, check=True).stdout == "42\n"


class Ctypes:
    """A library that was loaded before, and a C function that calls back into one made before."""

    def before(self):
        self.libc = ctypes.CDLL(None)
        pointer = ctypes.POINTER(ctypes.c_int)
        self.compare = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer)(lambda a, b: a[0] - b[0])
        self.numbers = (ctypes.c_int * 4)(3, 1, 4, 2)

    def after(self):
        self.libc.qsort(self.numbers, 4, ctypes.sizeof(ctypes.c_int), self.compare)
        return list(self.numbers) == [1, 2, 3, 4] and self.libc.strlen(b"later") == 5


class Vectors:
    """A thread that spins in machine code which holds a value in every vector register."""

    def before(self):
        with open("/proc/cpuinfo") as file:
            self.avx = platform.machine() == "x86_64" and " avx " in file.read()
        if not self.avx:
            return
        load, store = 0x6F, 0x7F

        def move(opcode, register, offset):
            # vmovdqu between ymm`register` and [rdi + offset]
            prefix = bytes([0xC5, 0xFE if register < 8 else 0x7E, opcode, 0x87 | (register % 8) << 3])
            return prefix + struct.pack("<i", offset)

        code = b"".join(move(load, register, 32 * register) for register in range(16))
        code += b"\xc6\x87" + struct.pack("<i", 1025) + b"\x01"  # mov byte [rdi + 1025], 1: all are loaded
        code += b"\xf3\x90"  # pause
        code += b"\x80\xbf" + struct.pack("<i", 1024) + b"\x00"  # cmp byte [rdi + 1024], 0
        code += b"\x74\xf5"  # je, back to the pause
        code += b"".join(move(store, register, 512 + 32 * register) for register in range(16))
        code += b"\xc5\xf8\x77\xc3"  # vzeroupper, ret
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.code = mmap.mmap(-1, mmap.PAGESIZE, flags=private, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self.code.write(code)
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(self.code)))
        self.values = os.urandom(512)
        self.memory = ctypes.create_string_buffer(self.values + bytes(514), 1026)
        self.thread = threading.Thread(target=function, args=(ctypes.addressof(self.memory),), daemon=True)
        self.thread.start()
        while self.memory[1025] != b"\x01":
            time.sleep(0.001)

    def after(self):
        if not self.avx:
            return "not on this processor"
        self.memory[1024] = b"\x01"
        self.thread.join()
        return self.memory.raw[512:1024] == self.values


class Timer:
    """The last one: little comes between this and the park, so that it is armed then."""

    def before(self):
        self.fired = threading.Event()
        threading.Timer(0.05, self.fired.set).start()

    def after(self):
        return self.fired.wait(10)


ITEMS = {
    "gc": Garbage,
    "heap": Heap,
    "clock": Clock,
    "open file": OpenFile,
    "new file": NewFile,
    "signal": Signal,
    "child process": ChildProcess,
    "ctypes": Ctypes,
    "threads": Threads,
    "vectors": Vectors,
    "thread pool": Pool,
    "asyncio": Asyncio,
    "timer": Timer,
}


def begin():
    begun = {name: item() for name, item in ITEMS.items()}
    for item in begun.values():
        item.before()
    return begun


def finish(begun):
    """Tells for each item that it went on, or what is wrong."""
    told = {}
    for name, item in begun.items():
        try:
            told[name] = item.after()
        except Exception as error:
            told[name] = repr(error)
    return told


if __name__ == "__main__":
    sys.path.insert(0, "/opt/stratos")
    import stratos

    begun = begin()
    stratos._park()
    sys.stdout.write(json.dumps(finish(begun)) + "\n")
    sys.stdout.flush()
    os._exit(0)
