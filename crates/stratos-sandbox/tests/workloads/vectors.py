"""Parks inside machine code that holds a value in every vector register. Run as `python3.13 -S -B vectors.py`."""

import ctypes
import mmap
import os
import struct

LOAD, STORE = 0x6F, 0x7F


def move(opcode, register, offset):
    """vmovdqu between ymm`register` and [rcx + offset]."""
    return bytes([0xC5, 0xFE if register < 8 else 0x7E, opcode, 0x81 | (register % 8) << 3]) + struct.pack("<i", offset)


code = b"".join(move(LOAD, register, 32 * register) for register in range(16))
code += b"\x51"  # push rcx
code += b"\x31\xc0"  # xor eax, eax: read(2)
code += b"\x0f\x05"  # syscall
code += b"\x59"  # pop rcx
code += b"".join(move(STORE, register, 512 + 32 * register) for register in range(16))
code += b"\xc5\xf8\x77"  # vzeroupper
code += b"\xc3"

private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
memory = mmap.mmap(-1, mmap.PAGESIZE, flags=private, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_long, ctypes.c_void_p)(
    ctypes.addressof(ctypes.c_char.from_buffer(memory))
)
values = os.urandom(512)
vectors = ctypes.create_string_buffer(values + bytes(512), 1024)
frame = ctypes.create_string_buffer(100)

os.write(4, b"RP")
length = function(3, frame, 100, ctypes.addressof(vectors))
print("released", frame.raw[:length].decode())
print("vectors", vectors.raw[512:1024] == values)
