"""How the command ends: exit codes and messages.

What a user can put right (a setting, a file, a full disk) is a message and exit code 2, never a
traceback; a failed run is 1, Ctrl-C 130 and SIGTERM 143, and running the same command again goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer

__all__ = ["clean_exits", "make_store", "raise_at_sigterm"]

_CONTINUE = "what is finished is kept; run the same command again to go on"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def _fail(message: str, code: int = 2) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(code)


def _explain_os_error(error: OSError, store: str) -> str:
    """One line: what was refused, where, and how much room is left there."""
    path = Path(error.filename if isinstance(error.filename, str) else store)
    existing = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path("/"))
    message = f"{path}: {error.strerror or error}"
    if error.errno in _NO_SPACE:
        free_bytes = shutil.disk_usage(existing).free
        message += f" ({free_bytes:,} bytes free there); free some space: {_CONTINUE}"
    return message


def _explain(error: Exception) -> str:
    """The error's message; of many runs that failed alike, one."""
    alike: dict[str, list[str]] = {}
    for failure in getattr(error, "failures", ()):
        alike.setdefault(failure.reason, []).append(str(failure))
    if not alike:
        return str(error)
    lines = [
        runs[0] + (f"\n({len(runs) - 1} more failed alike)" if len(runs) > 1 else "")
        for runs in alike.values()
    ]
    return "\n".join([*lines, f"{_CONTINUE}, and to try these again"])


def make_store(store: Path) -> None:
    """Raises OSError naming the directory of the records where it cannot be written, before hours of work."""
    store.mkdir(parents=True, exist_ok=True)
    if not os.access(store, os.W_OK):
        raise PermissionError(
            errno.EACCES, "cannot be written; choose another with store=DIRECTORY", str(store)
        )


def _is_about_files(error: OSError) -> bool:
    return error.filename is not None or error.errno in (*_NO_SPACE, errno.EROFS)


@contextlib.contextmanager
def clean_exits(store: str = ".") -> Iterator[None]:
    """Turn what the user can put right into a message and an exit code; all else keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        _fail(f"\ninterrupted: {_CONTINUE}", 130)
    except OSError as error:
        if not _is_about_files(error):
            raise
        _fail(_explain_os_error(error, store))
    except Exception as error:
        if not type(error).__module__.startswith("metalr."):
            raise
        # Errors that our rooms define have messages for the user; ValueErrors are about what was given.
        _fail(_explain(error), 2 if isinstance(error, ValueError) else 1)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End like any exception would, leaving workers and files in order; a second signal ends at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print(f"terminated: {_CONTINUE}", file=sys.stderr)
    raise SystemExit(143)


def raise_at_sigterm() -> None:
    """From now on SIGTERM unwinds the program with exit code 143."""
    signal.signal(signal.SIGTERM, _terminate)
