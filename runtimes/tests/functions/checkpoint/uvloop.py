"""As much of uvloop as a test needs without the package: a loop whose servers begin to accept when they are told to."""

import asyncio


class Loop(asyncio.SelectorEventLoop):
    pass
