"""The ``ntk-dist`` command: its subcommands, its log on the screen, and its last line."""

from __future__ import annotations

import json
import logging
import signal
import sys
import tempfile
import traceback
import uuid
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from ntk_dist._version import __version__
from ntk_dist.cli import here, jobs, service
from ntk_dist.cli.options import BAD_INPUT, DEFECT, INTERRUPTED, OK
from ntk_dist.errors import NTKDistError
from ntk_dist.settings import get_settings

__all__ = ["main", "run"]


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
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; whatever goes wrong ends as one line."""
    as_json = "--json" in arguments
    try:
        _log_to_screen(get_settings().log_level.upper())
        code = cli.main(arguments, prog_name="ntk-dist", standalone_mode=False)
    except click.ClickException as error:
        return _fail("usage", error.format_message(), BAD_INPUT, as_json)
    except (KeyboardInterrupt, click.Abort):
        message = "interrupted; finished blocks are kept: run the same command again to go on"
        return _fail("interrupted", message, INTERRUPTED, as_json)
    except NTKDistError as error:
        return _fail(error.code, str(error), error.exit_code, as_json)
    except Exception as error:
        return _fail("defect", _explain_defect(error), DEFECT, as_json)
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
        """Show one record."""
        click.echo(self.format(record), err=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _fail(code: str, message: str, exit_code: int, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"error": {"code": code, "message": message}}))
    else:
        click.echo(f"error: {message}", err=True)
    return exit_code


def _explain_defect(error: Exception) -> str:
    """One line for the screen, with the place of the traceback."""
    path = Path(tempfile.gettempdir()) / f"ntk-dist-{uuid.uuid4().hex[:8]}.log"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"unexpected {type(error).__name__}; this is a defect of ntk_dist, details in {path}"
