"""The Python runtime's entry. Run as ``python3.13 -S -B /opt/stratos/bootstrap.py``.

Only a few lines, because Python compiles the script it is given at every start; what follows lies in modules, which are
compiled once, when the layer is built.
"""

import sys

# With -I or -P Python leaves the folder of the script out.
_HERE = __file__.rpartition("/")[0] or "."
if _HERE not in sys.path:
    sys.path.insert(0, _HERE)

import stratos  # noqa: E402

stratos._mark(b"R")

import stratos_runtime  # noqa: E402

stratos_runtime.main()
