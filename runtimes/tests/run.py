#!/usr/bin/env python3
"""Drives the real bootstraps, as real processes, against a strict Runtime API server.

    python3 runtimes/tests/run.py --node /usr/bin/node --python /usr/bin/python3.13 [--only TEXT]

Prints one line for each case and ends with `N passed, N failed`.
"""

import argparse
import sys
import time
import traceback

import checkpoint  # noqa: F401  Registers its cases.
import instance
from cases import CASES
from harness import Harness


def main():
    parser = argparse.ArgumentParser(description="test the runtimes' bootstraps")
    parser.add_argument("--node", required=True, help="the node binary")
    parser.add_argument("--python", required=True, help="the python binary")
    parser.add_argument("--only", default="", help="run only cases whose name contains this text")
    arguments = parser.parse_args()
    instance.reserve_low_descriptors()

    commands = {"node": arguments.node, "python": arguments.python}
    failed = 0
    selected = [case for case in CASES if arguments.only in case.name]
    for case in selected:
        started = time.monotonic()
        harness = Harness(case.language, commands[case.language])
        problem = None
        try:
            case.run(harness)
            harness.check_violations()
        except Exception as error:
            problem = error
        finally:
            harness.close()
        took = f"{(time.monotonic() - started) * 1000:.0f} ms"
        print(f"{'FAIL' if problem else 'pass'}  {case.name}  ({took})", flush=True)
        if problem:
            failed += 1
            traceback.print_exception(problem)
            sys.stderr.write(harness.transcript())
    print(f"{len(selected) - failed} passed, {failed} failed")
    return 1 if failed or not selected else 0


if __name__ == "__main__":
    sys.exit(main())
