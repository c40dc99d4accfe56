"""Imported by Python at its start in ``start = "python server.py"`` functions (this folder is on PYTHONPATH): reports the start, takes
the release frame, and removes its variable, so that child processes of the server do not do the same. To be checkpointed, the server
parks once it listens instead, and a Runtime API client when it asks for ``restore/next``."""

import os

if os.environ.pop("STRATOS_STATUS_FD", None) is not None:
    import stratos

    stratos._mark(b"R")
    _port = os.environ.get("PORT", "")
    if stratos._checkpoint and _port.isdigit():
        import stratos_server

        stratos_server.park_when_listening(int(_port))
    elif stratos._checkpoint and os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        import stratos_snapstart

        stratos_snapstart.join()
    else:
        stratos._wait_for_release()
        if _port.isdigit():

            def _run_hooks():
                import stratos_server

                stratos_server.run_hooks_when_listening(int(_port))

            stratos._on_first_hook = _run_hooks
