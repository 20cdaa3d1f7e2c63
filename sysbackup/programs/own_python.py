"""Our own Python, started once more: the same interpreter and the same modules, for one function of ours."""

import os
import sys

# `python -c` would look into the working directory: nothing but `sys` is imported before the path is ours.
_BEGIN = (
    "import sys; name, count, *rest = sys.argv[1:]; number = int(count); sys.path[:] = rest[number:];"
    " import importlib; module, _, function = name.partition(':');"
    " getattr(importlib.import_module(module), function)(*rest[:number])"
)

# Where relative entries of sys.path begin; it may be gone by the time of a run.
_CWD = os.path.abspath(".")


def own_python(function: str, *arguments: str) -> list[bytes]:
    """The command line of a process that calls `module:function` with `arguments`, wherever our modules were found."""
    path = (os.path.join(_CWD, entry) for entry in sys.path)
    return [
        os.fsencode(word) for word in (sys.executable, "-c", _BEGIN, function, str(len(arguments)), *arguments, *path)
    ]
