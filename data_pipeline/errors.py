"""The one error a user is meant to read, and the one place where it becomes an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable

EXIT_STATUS = 2


class InputError(Exception):
    """Something a user can put right: ``str(error)`` is one line with what, where, limit, remedy.

    Raised at the boundaries (files, configuration, layouts). Whoever owns the process catches it,
    prints ``error: ...`` and leaves with status 2, without a traceback.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        # what a file holds or is called may be quoted, and terminals obey control characters
        line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)
        super().__init__(line)


def fail_clean(main: Callable[[], int | None]) -> int:
    """Run ``main`` and return the exit status it deserves: 0, 2 for InputError, 130 for ctrl-C."""
    try:
        return main() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_STATUS
    except KeyboardInterrupt:
        print("error: interrupted; nothing incomplete was left", file=sys.stderr, flush=True)
        return 130
