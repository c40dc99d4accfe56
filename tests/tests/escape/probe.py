"""One attempt to get out of an instance.

Reads a line of JSON from the park pipe (descriptor 3): {"probe": NAME, ...}. Makes the attempt and prints one line of
JSON: {"probe", "ok", "errno", "detail"}; "ok" says that it got through. Only what proves the way is open is done, never
harm: the attempts run with defences switched off too, as root of the test's machine.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import signal
import socket
import stat
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
# Numbers on x86_64 and on the architectures with the generic table.
CALLS = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "bpf": (321, 280), "perf_event_open": (298, 241), "unshare": (272, 97),
    "setns": (308, 268), "clone": (56, 220), "clone3": (435, 435), "add_key": (248, 217), "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282), "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224),
    "init_module": (175, 105), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "personality": (135, 92), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "move_mount": (429, 429), "setuid": (105, 146),
}
PROBES = {}


def probe(function):
    PROBES[function.__name__] = function
    return function


def fail(code, why=""):
    raise OSError(code, why or os.strerror(code))


def syscall(name, *args):
    number = CALLS[name][0 if X86 else 1]
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = LIBC.syscall(ctypes.c_long(number), *words)
    if result == -1:
        fail(ctypes.get_errno())
    return result


def reached(name, *args, answers):
    """A call with arguments that do no harm: these answers come from behind the check of permissions."""
    try:
        return syscall(name, *args)
    except OSError as error:
        if error.errno not in answers:
            raise
        return f"the kernel got as far as {errno.errorcode[error.errno]}"


def first(ways):
    """The first way that works; the error of the first one when none does."""
    failure = None
    for way in ways:
        try:
            return way()
        except OSError as error:
            failure = failure or error
    raise failure or OSError(errno.ENOENT, "no way to try")


def read_secret(path, secret):
    with open(path) as file:
        text = file.read(200)
    if secret not in text:
        fail(errno.ENODATA, f"{path} holds something else")
    return path


# Processes

def a_child():
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@probe
def see(pid, **_):
    with open(f"/proc/{pid}/cmdline") as file:
        text = file.read()
    if "sleep" not in text:
        fail(errno.ESRCH, f"{pid} is {text!r}")
    return text.replace("\0", " ")


@probe
def send_signal(pid, **_):
    os.kill(pid, signal.SIGCONT)


@probe
def ptrace_child(**_):
    pid = a_child()
    try:
        syscall("ptrace", 16, pid, 0, 0)  # PTRACE_ATTACH
        os.waitpid(pid, 0)
    finally:
        end(pid)


@probe
def ptrace_other(pid, **_):
    syscall("ptrace", 0x4206, pid, 0, 0)  # PTRACE_SEIZE: does not stop it


def start_of_memory(pid):
    with open(f"/proc/{pid}/maps") as maps:
        return int(maps.readline().split("-")[0], 16)


def vm_read(pid):
    try:
        address = start_of_memory(pid)
    except OSError:
        address = 0x400000
    buffer = ctypes.create_string_buffer(4)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 4)
    remote = (ctypes.c_size_t * 2)(address, 4)
    syscall("process_vm_readv", pid, local, 1, remote, 1, 0)
    return buffer.raw.decode("latin-1")


@probe
def vm_read_child(**_):
    pid = a_child()
    try:
        return vm_read(pid)
    finally:
        end(pid)


@probe
def vm_read_other(pid, **_):
    return vm_read(pid)


@probe
def memory_file(pid, **_):
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(start_of_memory(pid))
        return memory.read(4).decode("latin-1")


@probe
def fork_many(count, **_):
    pids = []
    try:
        for _ in range(count):
            pids.append(a_child())
    finally:
        for pid in pids:
            end(pid)
    return f"{count} processes"


# Files

@probe
def read_host(path, secret, **_):
    places = ["", "/tmp/host", "/proc/1/root", "/proc/self/root/../..", "/proc/self/cwd/../../../.."]
    return first([lambda place=place: read_secret(place + path, secret) for place in places])


@probe
def read_other(pid, path, secret, **_):
    return read_secret(f"/proc/{pid}/root{path}", secret)


@probe
def read_leaked(path, secret, **_):
    def way(directory):
        with open(os.open(path[1:], os.O_RDONLY, dir_fd=directory)) as file:
            if secret not in file.read(200):
                fail(errno.ENODATA)
        return f"from descriptor {directory}"
    return first([lambda fd=fd: way(fd) for fd in range(5, 256)])


def create(directory):
    path = os.path.join(directory, "stratos-escape")
    with open(path, "w") as file:
        file.write("x")
    os.unlink(path)
    return path


@probe
def write(directory, **_):
    return create(directory)


@probe
def write_below_root(directory, **_):
    """The layer cannot change; something else can be put over it."""
    def overmounted():
        mount("tmpfs", directory, "tmpfs")
        return create(directory)
    return first([lambda: create(directory), overmounted])


@probe
def write_device_folder(**_):
    def remounted():
        mount(None, "/dev", None, 32 | 4096)  # MS_REMOUNT | MS_BIND
        return create("/dev")
    return first([lambda: create("/dev"), remounted])


@probe
def write_file(path, **_):
    """Opens for writing, writes nothing."""
    file = os.open(path, os.O_WRONLY)
    kind = os.fstat(file)
    os.close(file)
    if not stat.S_ISREG(kind.st_mode):
        fail(errno.ENODEV, "something else lies over it")
    return path


@probe
def read_file(path, **_):
    with open(path, "rb") as file:
        start = file.read(4)
    if not start:
        fail(errno.ENODATA, "nothing in it")
    return path


@probe
def fill_bytes(size, **_):
    with open("/tmp/fill", "wb", buffering=0) as file:
        for _ in range(size >> 16):
            file.write(bytes(1 << 16))
    return f"{size} bytes"


@probe
def fill_files(count, **_):
    for index in range(count):
        os.close(os.open(f"/tmp/{index}", os.O_WRONLY | os.O_CREAT))
    return f"{count} files"


# Mounts

def mount(source, target, kind, flags=0):
    text = [t.encode() if t else None for t in (source, target, kind)]
    syscall("mount", *text, flags, None)


@probe
def mount_tmpfs(**_):
    os.mkdir("/tmp/mounted")
    mount("tmpfs", "/tmp/mounted", "tmpfs")


@probe
def mount_with_descriptors(**_):
    os.mkdir("/tmp/mounted")
    context = syscall("fsopen", b"tmpfs", 0)
    syscall("fsconfig", context, 6, None, None, 0)  # FSCONFIG_CMD_CREATE
    made = syscall("fsmount", context, 0, 0)
    syscall("move_mount", made, b"", -100, b"/tmp/mounted", 4)  # MOVE_MOUNT_F_EMPTY_PATH


@probe
def unmount(**_):
    syscall("umount2", b"/var/task", 2)  # MNT_DETACH


@probe
def pivot_root(**_):
    os.chdir("/tmp")
    syscall("pivot_root", b".", b".")


@probe
def chroot(**_):
    syscall("chroot", b"/tmp")


# Devices

@probe
def open_node(path, **_):
    os.close(os.open(path, os.O_RDONLY))
    return path


@probe
def make_node(major, minor, **_):
    os.mknod("/tmp/node", stat.S_IFBLK | 0o600, os.makedev(major, minor))


@probe
def use_node(major, minor, **_):
    os.mknod("/tmp/node", stat.S_IFBLK | 0o600, os.makedev(major, minor))
    return open_node("/tmp/node")


@probe
def terminal(descriptor, **_):
    fcntl.ioctl(descriptor, 0x5412, b"x")  # TIOCSTI


# Privileges

@probe
def become_root(**_):
    syscall("setuid", 0)


@probe
def set_user_id(path, **_):
    read, write = os.pipe()
    code = "import os; os.write(1, str(os.geteuid()).encode())"
    pid = os.posix_spawn(path, [path, "-I", "-S", "-c", code], {}, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
    os.close(write)
    user = os.read(read, 20).decode()
    os.waitpid(pid, 0)
    if user != "0":
        fail(errno.EPERM, f"user {user}")
    return "user 0"


@probe
def give_away(**_):
    with open("/tmp/file", "w") as file:
        os.fchown(file.fileno(), 0, 0)


@probe
def raise_limit(**_):
    import resource
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (hard + 1, hard + 1))


@probe
def raise_priority(**_):
    os.setpriority(os.PRIO_PROCESS, 0, -5)


@probe
def change_personality(**_):
    syscall("personality", 0x0400000)  # READ_IMPLIES_EXEC


# Namespaces

NEWNS, NEWUSER, NEWNET = 0x00020000, 0x10000000, 0x40000000


@probe
def unshare_user(**_):
    syscall("unshare", NEWUSER)


@probe
def unshare_mounts(**_):
    syscall("unshare", NEWNS)


@probe
def unshare_network(**_):
    syscall("unshare", NEWNET)


def forked(pid):
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@probe
def clone_user(**_):
    forked(syscall("clone", NEWUSER | signal.SIGCHLD, 0, 0, 0, 0))


@probe
def clone3_user(**_):
    arguments = struct.pack("8Q", NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    forked(syscall("clone3", arguments, len(arguments)))


@probe
def join(pid, **_):
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    syscall("setns", namespace, NEWNET)


@probe
def same_namespace(kind, host, **_):
    own = os.readlink(f"/proc/self/ns/{kind}")
    if own != host:
        fail(errno.EXDEV, f"{own} is not the host's {host}")
    return own


@probe
def cgroup_place(**_):
    with open("/proc/self/cgroup") as file:
        line = next(line for line in file if line.startswith("0::")).strip()
    if line == "0::/":
        fail(errno.EXDEV, "the root of its own")
    return line


# The kernel's large interfaces

@probe
def load_bpf(**_):
    code = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 0; exit
    program, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    # BPF_PROG_TYPE_TRACEPOINT; the rest of the structure is zero.
    attributes = struct.pack("<IIQQ", 5, 2, ctypes.addressof(program), ctypes.addressof(licence)).ljust(144, b"\0")
    syscall("bpf", 5, attributes, len(attributes))


@probe
def measure(**_):
    attributes = struct.pack("<II", 1, 112).ljust(112, b"\0")  # PERF_TYPE_SOFTWARE, the CPU clock
    syscall("perf_event_open", attributes, -1, 0, -1, 0)


@probe
def add_key(**_):
    syscall("add_key", b"user", b"stratos-escape", b"x", 1, -2)  # KEY_SPEC_PROCESS_KEYRING


@probe
def io_uring(**_):
    syscall("io_uring_setup", 1, ctypes.create_string_buffer(120))


@probe
def fault_handling(**_):
    syscall("userfaultfd", 1)  # UFFD_USER_MODE_ONLY


@probe
def open_by_handle(**_):
    with open("/tmp/file", "w") as file:
        file.write("x")
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount_id = ctypes.c_int()
    syscall("name_to_handle_at", -100, b"/tmp/file", handle, ctypes.byref(mount_id), 0)
    syscall("open_by_handle_at", os.open("/tmp", os.O_RDONLY), handle, os.O_RDONLY)


@probe
def other_instruction_set(**_):
    """getpid by the 32-bit interface of x86, whose calls have other numbers."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, 20; int 0x80; pop rbx; ret
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    if call() != os.getpid():
        fail(errno.ENOSYS)


# Administration. The arguments are wrong on purpose.

@probe
def load_kernel(**_):
    return reached("kexec_load", 0, 0, None, 0xFFFF, answers=[errno.EINVAL])


@probe
def restart_machine(**_):
    return reached("reboot", 0, 0, 0, None, answers=[errno.EINVAL])


@probe
def add_swap(**_):
    return reached("swapon", b"/tmp/none", 0, answers=[errno.ENOENT])


@probe
def load_module(**_):
    return reached("init_module", None, 0, None, answers=[errno.ENOEXEC, errno.EFAULT])


# Network

def greeting(made, address):
    made.settimeout(5)
    made.connect(address)
    if made.type == socket.SOCK_DGRAM:
        made.send(b"hello")
    answer = made.recv(20)
    if answer != b"hello":
        fail(errno.EPROTO, repr(answer))
    return str(address)


@probe
def connect(address, port, **_):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as made:
        return greeting(made, (address, port))


@probe
def datagram(address, port, **_):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        return greeting(made, (address, port))


@probe
def abstract_socket(name, **_):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        return greeting(made, "\0" + name)


@probe
def unix_socket(path, **_):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        return first([lambda place=place: greeting(made, place + path) for place in ("", "/tmp/host")])


@probe
def raw_socket(**_):
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@probe
def packet_socket(**_):
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


@probe
def vsock_socket(**_):
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()


@probe
def add_address(**_):
    """10.99.99.99/32 for the loopback interface, by netlink."""
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, socket.if_nametoindex("lo"))
    for kind in 1, 2:  # IFA_ADDRESS, IFA_LOCAL
        body += struct.pack("=HH", 8, kind) + socket.inet_aton("10.99.99.99")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        # RTM_NEWADDR; NLM_F_REQUEST, ACK, CREATE
        netlink.send(struct.pack("=IHHII", 16 + len(body), 20, 0x405, 1, 0) + body)
        code = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    if code:
        fail(-code)


# What is handed over

@probe
def descriptors(expected, **_):
    def is_open(number):
        try:
            return bool(os.fstat(number))
        except OSError:
            return False
    more = [n for n in range(1024) if n not in expected and is_open(n)]
    if not more:
        fail(errno.EBADF, "none but the expected")
    return ", ".join(f"{n}={os.readlink(f'/proc/self/fd/{n}')}" for n in more)


@probe
def environment(expected, **_):
    # The interpreter itself may set LC_CTYPE.
    more = [f"{key}={value}" for key, value in os.environ.items() if key not in [*expected, "LC_CTYPE"]]
    if not more:
        fail(errno.ENOENT, "none but the expected")
    return " ".join(more)


# Probes that stay

@probe
def hold(secret, **_):
    with open("/tmp/secret", "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(secret)
    os.write(4, b"P")
    while os.read(3, 100):
        pass


@probe
def linger(leader_exits, **_):
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        for number in signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE:
            signal.signal(number, signal.SIG_IGN)
        os.write(4, b"P")
        while True:
            signal.pause()
    if not leader_exits:
        while True:
            signal.pause()
    os.read(3, 1)  # the test says when


def main():
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(3, 1)
    task = json.loads(line)
    name = task.pop("probe")
    told = {"probe": name, "ok": True, "errno": None, "detail": None}
    try:
        told["detail"] = PROBES[name](**task)
    except OSError as error:
        told.update(ok=False, errno=errno.errorcode.get(error.errno, str(error.errno)), detail=str(error))
    os.write(1, json.dumps(told).encode() + b"\n")


main()
