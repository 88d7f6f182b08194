"""The ``ntk-dist`` command: its subcommands, its log on the screen, and its last line."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
import uuid
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from ntk_dist._version import __version__
from ntk_dist.cli import here, jobs, service
from ntk_dist.cli.options import BAD_INPUT, DEFECT, INTERRUPTED, NO_READER, OK
from ntk_dist.errors import NTKDistError
from ntk_dist.settings import get_settings

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["main", "run"]

log = logging.getLogger(__name__)

AGAIN_S = 0.05
"""Until an interruption that Python has dropped comes again."""
_is_told_to_end = threading.Event()
"""Set by the handler of signals, since what it raises may be dropped or made another error of."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ntk-dist")
def cli() -> None:
    """Exact kernel regression with infinitely wide neural networks."""


for _command in (*here.COMMANDS, *jobs.COMMANDS, *service.COMMANDS):
    cli.add_command(_command)


def main() -> NoReturn:
    """Entry point of the ``ntk-dist`` command."""
    # A polite kill is an interruption, so that workers are stopped and temporary files go.
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _interrupt_again
    code = run(sys.argv[1:])
    try:
        if sys.stdout is not None:  # a shell may have closed it
            sys.stdout.flush()
    except OSError:  # told by now, if there is somebody to tell; Python would do it once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; whatever goes wrong ends as one line."""
    as_json = "--json" in arguments
    _is_told_to_end.clear()
    try:
        _log_to_screen(get_settings().log_level.upper())
        code = cli.main(arguments, prog_name="ntk-dist", standalone_mode=False)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        return _end(error, as_json)
    return int(code or OK)


def _log_to_screen(level: str) -> None:
    """Show this package's own log; the engines' would bury the one line that matters."""
    handler = _ScreenHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("ntk_dist")
    logger.handlers = [handler]
    logger.setLevel(level)
    # Kernels tell, once per machine, of a compilation that people wait many seconds for.
    shown = logging.INFO if logger.level == logging.WARNING else logger.level
    logging.getLogger("ntk_dist.kernels").setLevel(shown)


class _ScreenHandler(logging.Handler):
    """Writes to what is standard error now: a bar that is shown takes its place, and gives way."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record, if there is somebody to see it: no work ends for want of that."""
        with suppress(OSError):
            click.echo(self.format(record), err=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _is_told_to_end.set()
    raise KeyboardInterrupt


def _interrupt_again(unraisable: UnraisableHookArgs) -> None:
    """What is raised in a callback of the garbage collector, of which JAX has one, is dropped.

    Of 32 fits that were told to end in their first seconds, three went on and exited with 0.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)


def _end(error: BaseException, as_json: bool) -> int:
    """Tell in one line what went wrong; the exit code that it makes."""
    # After that whatever goes wrong is a consequence: of an extension that is interrupted while it
    # is imported comes an ImportError.
    if _is_told_to_end.is_set() or isinstance(error, KeyboardInterrupt | click.Abort):
        message = "interrupted; finished blocks are kept: run the same command again to go on"
        return _fail("interrupted", message, INTERRUPTED, as_json)
    match error:
        case click.ClickException():
            return _fail("usage", error.format_message(), BAD_INPUT, as_json)
        case NTKDistError():
            return _fail(error.code, _with_notes(error), error.exit_code, as_json)
        case SystemExit():  # click's word for a pipe that is closed
            return NO_READER
    return _fail("defect", _explain_defect(error), DEFECT, as_json)


def _fail(code: str, message: str, exit_code: int, as_json: bool) -> int:
    with suppress(OSError):  # the exit code says it, too
        if as_json:
            click.echo(json.dumps({"error": {"code": code, "message": message}}))
        else:
            click.echo(f"error: {message}", err=True)
    return exit_code


def _with_notes(error: NTKDistError) -> str:
    """An error in one line, with what was noted on its way; tracebacks go to the log."""
    notes: list[str] = getattr(error, "__notes__", [])
    for note in notes:
        log.debug("%s", note)
    return "; ".join([str(error), *(note for note in notes if "\n" not in note)])


def _explain_defect(error: BaseException) -> str:
    """One line for the screen, with the place of the traceback."""
    path = Path(tempfile.gettempdir()) / f"ntk-dist-{uuid.uuid4().hex[:8]}.log"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"unexpected {type(error).__name__}; this is a defect of ntk_dist, details in {path}"
