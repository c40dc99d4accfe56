"""Makes the random numbers of a process its own after it has been restored from a checkpoint. Loaded only where one is to be taken.

OpenSSL's generators and the kernel's are reseeded from outside, before the release. What is left is the state that Python modules
hold. A module that is not loaded is left alone: it will seed itself from the kernel.
"""

import sys


def prepare():
    """Does before the checkpoint what is slow the first time, above all OpenSSL's initialisation."""
    modules = sys.modules
    if random := modules.get("random"):
        random.Random(b"")
    if ssl := modules.get("_ssl"):
        ssl.RAND_add(b"", 0.0)


def reseed(seed):
    """Renews what the standard library and numpy hold, with the 32 bytes of a release frame."""
    # Each generator gets a seed that the others' output does not tell: Mersenne Twisters give theirs away, and `random` hashes its own.
    public, secret = seed[:16], seed[16:]
    modules = sys.modules
    if random := modules.get("random"):
        random.seed(public)
    if numpy_random := modules.get("numpy.random"):
        numpy_random.seed([int.from_bytes(public[at : at + 4], "little") for at in range(0, 16, 4)])
    if ssl := modules.get("_ssl"):
        ssl.RAND_add(secret, len(secret))
    if tempfile := modules.get("tempfile"):
        tempfile._name_sequence = None  # Made again, with a generator of its own, for the next name.
    if uuid := modules.get("uuid"):
        uuid._node = None  # A random number on a machine without a network card.
