"""Imported by Python at its start in ``start = "python server.py"`` functions (this folder is on PYTHONPATH): reports the start, takes
the release frame, and removes its variable, so that child processes of the server do not do the same."""

import os

if os.environ.pop("STRATOS_STATUS_FD", None) is not None:
    import stratos

    stratos._mark(b"R")
    stratos._wait_for_release()
