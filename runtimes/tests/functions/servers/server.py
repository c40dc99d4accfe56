"""Prints what sitecustomize left behind, then what a child process sees."""

import os
import subprocess
import sys

print([os.environ.get("FROM_FRAME"), os.environ.get("STRATOS_STATUS_FD")], flush=True)
subprocess.run([sys.executable, "-c", "import os; print('child', os.environ['FROM_FRAME'])"], check=True)
