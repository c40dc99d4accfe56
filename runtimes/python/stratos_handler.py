"""Finds and loads the function that ``_HANDLER`` names: ``module.function``, ``package.module.function`` or ``dir/module.function``."""

import os
import sys

from stratos_errors import RuntimeFault


def prepare_path(task_root):
    """Makes the function's modules importable first, then its installed packages, then the standard library, then ``stratos``."""
    here = os.path.dirname(os.path.abspath(__file__))
    packages = os.path.join(task_root, ".stratos", "python")
    sys.path[:] = [task_root, packages, *(entry for entry in sys.path if entry not in (here, task_root, packages)), here]
    try:
        has_path_files = any(name.endswith(".pth") for name in os.listdir(packages))
    except FileNotFoundError:
        return
    if has_path_files:  # Few packages have one, and `site` is not free.
        import site

        site.addsitedir(packages)


def load(name):
    """The handler. Raises ``RuntimeFault``, or what the user's module itself raised."""
    module_name, _, function_name = name.replace("/", ".").rpartition(".")
    if not module_name or not function_name or ".." in name or module_name.startswith("."):
        raise RuntimeFault("Runtime.MalformedHandlerName", f"handler '{name}' is not of the form 'module.function'")
    try:
        __import__(module_name)
    except ImportError as error:
        raise RuntimeFault("Runtime.ImportModuleError", f"unable to import module '{module_name}': {error}", error) from error
    except SyntaxError as error:
        raise RuntimeFault("Runtime.UserCodeSyntaxError", f"syntax error in module '{module_name}': {error}", error) from error
    handler = getattr(sys.modules[module_name], function_name, None)
    if handler is None:
        raise RuntimeFault("Runtime.HandlerNotFound", f"handler '{function_name}' is missing in module '{module_name}'")
    if not callable(handler):
        raise RuntimeFault("Runtime.HandlerNotFound", f"handler '{function_name}' in module '{module_name}' is not a function")
    return handler
