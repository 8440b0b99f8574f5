"""A directory that is there whole or not at all, for the tools that write a model."""

import contextlib
import os
import shutil


@contextlib.contextmanager
def new_directory(out, fail):
    """Yields a directory beside `out` to write into, which gets that name at the end. On any error nothing of it is left, so that
    the next try is not in its way, and fail(message), which must end the program, says in one line what it was."""
    out = os.path.normpath(out)
    if os.path.lexists(out):
        fail(f"{out}: expected a directory that can be made and is not there yet")
    temporary = f"{out}.tmp.{os.getpid()}"
    try:
        os.makedirs(temporary)
        yield temporary
        os.rename(temporary, out)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, Exception):
            raise       # an interrupt, or the tool's own end
        fail(f"{out}: expected to write a new directory: {' '.join(str(error).split())}")
