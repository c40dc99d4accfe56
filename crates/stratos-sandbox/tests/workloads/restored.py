"""Waits to be released, then tells what it finds. Run as `python3.13 -S restored.py`."""

import os
import ssl  # OpenSSL's generator is in memory when the checkpoint is taken.
import threading
import time

started = time.monotonic()
random_before = ssl.RAND_bytes(8)

# Threads beside the first, one of them in a wait and one in a sleep.
event = threading.Event()
answers = []
threading.Thread(target=lambda: (event.wait(), answers.append(threading.get_native_id())), daemon=True).start()
ticks = []


def tick():
    while True:
        time.sleep(0.01)
        ticks.append(1)


threading.Thread(target=tick, daemon=True).start()
local = threading.local()
local.value = "kept"
read_end, write_end = os.pipe()
os.write(write_end, b"in the pipe")
data = open("/var/task/restored.py", "rb")
data.seek(3)

os.write(4, b"RP")
frame = b""
while True:
    part = os.read(3, 100)
    if not part:
        break
    frame += part
ticks_before = len(ticks)

print("released", frame.decode())
event.set()
while not answers or len(ticks) == ticks_before:
    time.sleep(0.001)
print("threads", threading.active_count(), os.getpid(), threading.get_native_id())
print("local", local.value)
print("pipe", os.read(read_end, 100).decode())
print("position", data.tell(), data.read(6))
fds = {int(fd): os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}
print("fds", " ".join(f"{fd}={name.split(':')[0]}" for fd, name in sorted(fds.items())))
print("cwd", os.getcwd())
print("exe", os.readlink("/proc/self/exe"))
print("hostname", os.uname().nodename)
print("user", os.getuid() >= 1000, os.getuid() == os.geteuid() == os.getgid(), os.getgroups())
status = dict(line.rstrip("\n").split(":", 1) for line in open("/proc/self/status"))
for name in ("Umask", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn", "SigCgt", "Threads"):
    print(name, status[name].strip())
for task in sorted(map(int, os.listdir("/proc/self/task"))):
    caps = [line.split()[1] for line in open(f"/proc/self/task/{task}/status") if line.startswith(("CapEff", "CapPrm", "CapBnd", "Seccomp:"))]
    print("task", task, *caps)
print("mounts", " ".join(sorted(line.split()[4] for line in open("/proc/self/mountinfo") if not line.split()[4].startswith("/proc/"))))
print("random", ssl.RAND_bytes(8).hex())
print("urandom", os.urandom(8).hex())
print("monotonic", time.monotonic() >= started)
print("wall", time.time())
try:
    open("/var/task/x", "w")
except OSError as error:
    print("write", error.strerror)
with open("/tmp/x", "w") as file:
    file.write("own")
try:
    os.setuid(0)
except OSError as error:
    print("root", error.strerror)
maps = [line.split()[-1] for line in open("/proc/self/maps") if "/" in line]
print("paths", all(path.startswith(("/usr/", "/var/task/", "/lib", "/etc/", "/opt/")) for path in maps), maps[:1])
