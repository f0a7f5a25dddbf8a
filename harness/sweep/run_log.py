"""A run's run.log: a line for everything that happened to it, however often it was resumed.

EVENTS takes what only the log is to have; what modules warn of, each by the logger of its name, is on stderr too.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vhsbench.harness.common.files import ReadError, check_regular
from vhsbench.harness.common.shown import one_line, printable
from vhsbench.harness.store.folder import Folder
from vhsbench.version import __version__

NAME = "run.log"
EVENTS = logging.getLogger("vhsbench.events")
EVENTS.setLevel(logging.INFO)
EVENTS.propagate = False
EVENTS.addHandler(logging.NullHandler())  # without any, warnings would go to stderr

_ALL = logging.getLogger("vhsbench")


@contextmanager
def run_log(folder: Folder, begins: str) -> Iterator[None]:
    """Append events and warnings to the folder's run.log in the block: first `begins`, last that it is complete, or the error.

    A folder at a URL has none: objects there cannot be appended to.
    """
    if folder.local is None:
        yield
        return
    handlers: dict[logging.Logger, list[logging.Handler]] = {
        EVENTS: [file := _File(folder.local / NAME)],
        _ALL: [file],
    }
    if logging.lastResort and not _ALL.hasHandlers():
        handlers[_ALL].append(
            logging.lastResort
        )  # stderr, which gets warnings only as long as nothing else does
    for logger, added in handlers.items():
        for handler in added:
            logger.addHandler(handler)
    try:
        EVENTS.info(
            "%s; vhsbench %s, process %d of %s", begins, __version__, os.getpid(), socket.gethostname()
        )
        yield
        EVENTS.info("complete")
    except BaseException as error:
        EVENTS.error("stopped: %s", one_line(error))
        raise
    finally:
        for logger, added in handlers.items():
            for handler in added:
                logger.removeHandler(handler)


class _File(logging.Handler):
    """Appends a line a record: UTC, level, message. Opened for each, so that a full disk costs lines, not the run."""

    def __init__(self, file: Path) -> None:
        super().__init__(logging.INFO)
        self._file = file
        self.formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.formatter.converter = time.gmtime

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ReadError):
            if self._file.exists():
                check_regular(self._file)  # opening a pipe would wait for its reader
            with self._file.open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(printable(self.format(record)) + "\n")
