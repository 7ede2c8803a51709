"""The one place where the command line turns exceptions into messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from orchestrator.cli.render import talk
from orchestrator.errors import Kind, OrchError, render

FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
DONE, NO, USAGE, BUG, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES: Mapping[Kind, int] = {
    Kind.INVALID: NO,
    Kind.NOT_FOUND: NO,
    Kind.CONFLICT: NO,
    Kind.UNSUPPORTED: NO,
    Kind.UNAVAILABLE: NO,
    Kind.OVERLOADED: NO,
    Kind.QUOTA: NO,
    Kind.DEADLINE: NO,
    Kind.CANCELLED: NO,
    Kind.TOO_LARGE: NO,
    Kind.FAILED: NO,
    Kind.UNAUTHORIZED: NO,
    Kind.INTERNAL: BUG,
}


class TroubleError(Exception):
    """An error in a command whose exit code 1 already means something else (diff)."""

    def __init__(self, error: OrchError, code: int) -> None:
        self.error = error
        self.code = code
        super().__init__(str(error))


@contextlib.contextmanager
def trouble_exits(code: int) -> Iterator[None]:
    """Let errors within exit with `code` instead of 1."""
    try:
        yield
    except OrchError as error:
        raise TroubleError(error, max(code, EXIT_CODES[error.kind])) from None


def guarded(main: Callable[[], object], *, command: list[str], environ: Mapping[str, str]) -> int:
    """Run `main` and return the exit code of the process; nothing that it raises gets past."""
    for stream in (sys.stdout, sys.stderr):
        # The plan's signs must not end the program where the terminal cannot show them.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        main()
    except SystemExit as leaving:
        return _left(leaving.code)
    except KeyboardInterrupt:
        return _left(INTERRUPTED)
    except OrchError as error:
        return _told(error, EXIT_CODES[error.kind])
    except TroubleError as trouble:
        return _told(trouble.error, trouble.code)
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            return _reported(error, command, environ)
        return _told(OrchError(Kind.FAILED, f"the output cannot be written: {error.strerror}"), NO)
    except Exception as bug:  # noqa: BLE001 - this is the boundary
        return _reported(bug, command, environ)
    return DONE


def _left(code: object) -> int:
    if code == INTERRUPTED:
        talk("interrupted")
    if code is None:
        return DONE
    return code if isinstance(code, int) else NO


def _told(error: OrchError, code: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        talk(render(error))
    return code


def _reported(bug: Exception, command: list[str], environ: Mapping[str, str]) -> int:
    path = _write_report(bug, command, environ)
    with contextlib.suppress(BrokenPipeError):
        talk(f"error: orch failed in a way it should not: {type(bug).__name__}: {str(bug)[:300]}")
        talk(f"hint: please report it with the file {path}" if path else "hint: no report could be written")
    return BUG


def _write_report(bug: Exception, command: list[str], environ: Mapping[str, str]) -> Path | None:
    import tempfile  # only a bug needs it

    from orchestrator.cli.report import report_text

    text = report_text(bug, command)
    for folder in (_state_folder(environ), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", prefix="orch-bug-", suffix=".txt", dir=folder, delete=False
            ) as file:
                file.write(text)
                return Path(file.name)
    return None


def _state_folder(environ: Mapping[str, str]) -> Path:
    from orchestrator.agent.paths import state_dir  # only a bug needs it

    return state_dir(environ) / "reports"
