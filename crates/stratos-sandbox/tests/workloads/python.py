"""What functions ask of Python: run under a seccomp profile, any failure ends with a non-zero status."""

import asyncio
import concurrent.futures
import ctypes
import fcntl
import hashlib
import http.client
import http.server
import mmap
import multiprocessing
import os
import pathlib
import random
import resource
import secrets
import select
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import tempfile
import threading
import time
import uuid


def files(directory):
    path = directory / "a"
    path.write_text("hello")
    shutil.copy2(path, directory / "b")
    shutil.copytree(directory, directory.parent / (directory.name + "-copy"))
    shutil.rmtree(directory.parent / (directory.name + "-copy"))
    os.rename(directory / "b", directory / "c")
    os.symlink("a", directory / "link")
    os.link(path, directory / "hard")
    os.chmod(path, 0o600)
    os.utime(path, (1, 2))
    os.truncate(path, 3)
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.fsync(file.fileno())
        os.pwrite(file.fileno(), b"x", 0)
        os.posix_fallocate(file.fileno(), 0, 4096)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        with mmap.mmap(file.fileno(), 0) as view:
            view[0:1] = b"y"
            view.flush()
    list(directory.rglob("*"))
    os.listxattr(path)
    os.statvfs(path)
    os.mkfifo(directory / "fifo")
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    os.close(os.memfd_create("m"))


def sha(text):
    return hashlib.sha256(text).hexdigest()


def network():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "4")
            self.end_headers()
            self.wfile.write(b"pong")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def get(_):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request("GET", "/")
        return connection.getresponse().read()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(body == b"pong" for body in pool.map(get, range(20)))
    server.shutdown()
    assert socket.getaddrinfo("localhost", 80)
    socket.if_nameindex()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.sendto(b"x", udp.getsockname())
        assert udp.recv(9) == b"x"
    a, b = socket.socketpair()
    socket.send_fds(a, [b"x"], [0])
    _, descriptors, _, _ = socket.recv_fds(b, 9, 1)
    os.close(descriptors[0])
    ssl.create_default_context()


def processes():
    assert subprocess.run(["/bin/cat"], input=b"abc", capture_output=True).stdout == b"abc"
    assert subprocess.run("exit 3", shell=True).returncode == 3
    child = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
    child.terminate()
    child.wait()
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            assert len(pool.map(sha, [b"a", b"b", b"c"])) == 3
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()


async def coroutines():
    process = await asyncio.create_subprocess_exec("/bin/true")
    assert await process.wait() == 0
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close()
    server.close()
    await asyncio.gather(*(asyncio.to_thread(sha, b"x") for _ in range(4)))
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


def computing(directory):
    database = sqlite3.connect(directory / "d.db")
    database.execute("pragma journal_mode = wal")
    database.execute("create table t(a)")
    database.execute("insert into t values (1)")
    database.commit()
    assert database.execute("select a from t").fetchone() == (1,)
    database.close()
    random.random(), secrets.token_hex(), uuid.uuid4(), os.urandom(8), os.getrandom(8)
    time.sleep(0.001)
    resource.getrusage(resource.RUSAGE_SELF), resource.getrlimit(resource.RLIMIT_NOFILE)
    os.cpu_count(), os.sched_getaffinity(0), os.getloadavg(), os.uname(), os.times()
    ctypes.CDLL(None).getpid()
    poller = select.epoll()
    poller.close()


def main():
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        files(directory)
        network()
        processes()
        asyncio.run(coroutines())
        computing(directory)
    print("workload done")


if __name__ == "__main__":
    main()
