"""Joins the hooks of ``snapshot_restore_py`` in a process that is started to be checkpointed, and whose own Runtime API client (AWS's
``awslambdaric``) does that by the SnapStart protocol: it runs the hooks before the snapshot, asks for ``restore/next``, is dumped while
it waits for the answer, and in each restored instance runs the hooks after the restore before its first event.

The client stays as it is. What is registered here makes the restored process one of its own: it reads its release frame, which brings
its environment and renews its random numbers, before any hook of the function runs.
"""

import stratos


def join():
    """To be called before the client is loaded."""
    stratos._WhenImported("snapshot_restore_py", _register)


def _register(hooks):
    """What is registered first runs last before the snapshot, and first after the restore."""
    begin = hooks.get_before_snapshot

    def get_before_snapshot():
        stratos._mark(b"B")  # The function's initialisation is done, the time of its hooks begins.
        return begin()

    hooks.get_before_snapshot = get_before_snapshot
    hooks.register_before_snapshot(_prepare)
    hooks.register_after_restore(stratos._wait_for_release)


def _prepare():
    import ssl  # noqa: F401  The client's request loads it: so it is there to be prepared.

    stratos._announce_park()
