"""Commands that run the service, and those that look after its tokens and tables."""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ntk_dist.cli.options import OK, json_option, require_workspace, show
from ntk_dist.errors import MissingDependencyError
from ntk_dist.wire import SCOPES, Scope, to_json

if TYPE_CHECKING:
    from ntk_dist.database import TokenRecord
    from ntk_dist.database.opened import Database

__all__ = ["COMMANDS"]

workspace_option = click.option(
    "--workspace", default="./ws", show_default=True, metavar="DIR", help="Or s3://BUCKET/PREFIX."
)
database_option = click.option(
    "--database",
    metavar="URL",
    help="postgresql+psycopg://USER:PASSWORD@HOST/NAME instead of a file in the workspace; better "
    "in NTK_DIST_SERVICE__DATABASE_URL, where other users of this machine do not see it.",
)
MOST_DAYS = 36_500
"""Of a token, which nobody looks after for longer; the calendar of Python ends in the year 9999."""
_pem = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@workspace_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option("--insecure", is_flag=True, help="Ask for no tokens; on a loopback address only.")
@click.option("--tls-cert", type=_pem, metavar="PEM", help="Certificate, with its chain.")
@click.option("--tls-key", type=_pem, metavar="PEM", help="Its key.")
@database_option
def serve(
    workspace: str,
    host: str,
    port: int,
    insecure: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    database: str | None,
) -> int:
    """Answer requests over HTTP: jobs, models, predictions.

    Jobs go on when the service ends, and are found again when it starts.
    """
    try:
        from ntk_dist.service.serve import serve as serve_here
        from ntk_dist.service.service import ServiceConfig
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the service needs a library that is not installed ({error.name}): "
            "pip install 'ntk_dist[service]'"
        ) from error
    from ntk_dist.service.tokens import MaskingFormatter

    ours, theirs = logging.getLogger("ntk_dist"), logging.getLogger("uvicorn")
    for handler in ours.handlers:
        handler.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    theirs.handlers, theirs.level = ours.handlers, ours.level
    config = ServiceConfig(workspace=workspace, database_url=database, is_open=insecure)
    serve_here(
        config,
        host=host,
        port=port,
        certificate=tls_cert,
        key=tls_key,
        on_start=lambda url: click.echo(f"listening on {url}"),
    )
    return OK


@click.group()
def token() -> None:
    """Make, adopt, list and revoke what callers of the service show to be let in."""


@token.command()
@click.option(
    "--name", metavar="WHO", help="Of whoever gets it, and whose jobs it may cancel [this user]."
)
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    type=click.Choice(SCOPES),
    help="What it is good for; several times for several. admin is all of them.",
)
@click.option(
    "--days",
    type=click.IntRange(1, MOST_DAYS),
    help="How long it is good; without it, until it is revoked.",
)
@workspace_option
@database_option
@json_option
def create(
    name: str | None,
    scopes: tuple[Scope, ...],
    days: int | None,
    workspace: str,
    database: str | None,
    as_json: bool,
) -> int:
    """Make a token. It is shown this once: only its hash is kept."""
    from ntk_dist.service.tokens import new_token

    lifetime = None if days is None else timedelta(days=days)
    owner = getpass.getuser() if name is None else name
    text, record = new_token(owner, sorted(set(scopes)), datetime.now(UTC), lifetime)
    with _opened(workspace, database, is_made=True) as opened:
        opened.tokens.insert(record)
        # Beside the output, which scripts take for the token.
        click.echo(f"good for services on {opened.place}", err=True)
        told = {"token": text, **_told(record), "database": opened.place}
    show(told, text, as_json)
    return OK


@token.command()
@click.option("--name", required=True, metavar="WHO", help="Of whoever holds it.")
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    type=click.Choice(SCOPES),
    help="What it is good for from now on; several times for several.",
)
@workspace_option
@database_option
@json_option
def adopt(
    name: str, scopes: tuple[Scope, ...], workspace: str, database: str | None, as_json: bool
) -> int:
    """Make the token in NTK_DIST_TOKEN good, and revoke all others of its name.

    For tokens that are made elsewhere and handed to the service, as a Secret of Kubernetes is:
    before the service starts, and again after the Secret has changed. To do it again is fine.
    """
    from ntk_dist.service.adoption import adopt as adopt_here

    # Never an argument: other users of this machine see those. A file ends with a line break.
    text = os.environ.get("NTK_DIST_TOKEN", "").strip()
    now = datetime.now(UTC)
    with _opened(workspace, database, is_made=True) as opened:
        adopted = adopt_here(opened.tokens, text, name=name, scopes=scopes, now=now)
    record = adopted.record
    is_new = "is good from now on" if adopted.is_new else "was known already"
    told = f"token {record.id} of {record.name} {is_new}, for {','.join(record.scopes)}"
    if adopted.revoked:
        told += f"; revoked: {', '.join(adopted.revoked)}"
    show({**_told(record), "is_new": adopted.is_new, "revoked_ids": adopted.revoked}, told, as_json)
    return OK


@token.command("list")
@workspace_option
@database_option
@json_option
def list_tokens(workspace: str, database: str | None, as_json: bool) -> int:
    """Show all tokens, without their secrets."""
    with _opened(workspace, database) as opened:
        records = opened.tokens.all()
    now = datetime.now(UTC)
    lines = [
        f"{record.id}  {record.name:<20} {','.join(record.scopes):<24} {_standing(record, now)}"
        for record in records
    ]
    show([_told(record) for record in records], "\n".join(lines) or "no tokens", as_json)
    return OK


@token.command()
@click.argument("token_id", metavar="ID")
@workspace_option
@database_option
@json_option
def revoke(token_id: str, workspace: str, database: str | None, as_json: bool) -> int:
    """Make a token useless, within seconds; ID is in the list, and in the token itself."""
    with _opened(workspace, database) as opened:
        record = opened.tokens.revoke(token_id, datetime.now(UTC))
    show(_told(record), f"token {record.id} of {record.name} is revoked", as_json)
    return OK


@click.group()
def database() -> None:
    """Look after the tables of the service."""


@database.command("upgrade")
@workspace_option
@database_option
@json_option
def upgrade_tables(workspace: str, database: str | None, as_json: bool) -> int:
    """Bring the tables to those of this version, and say which they were.

    The service does it by itself when it starts; this is for doing it before. Make a back-up
    first: there is no way back.
    """
    with _opened(workspace, database, is_made=True) as opened:
        before, after, place = *opened.revisions, opened.place
    what = f"revision {after} already" if before == after else f"{before or 'no tables'} -> {after}"
    told = {"database": place, "before": before, "after": after}
    show(told, f"database {place}: {what}", as_json)
    return OK


@contextmanager
def _opened(workspace: str, url: str | None, *, is_made: bool = False) -> Iterator[Database]:
    """The database of tokens; ``is_made`` if there need not be any yet."""
    from ntk_dist.database import database_url, open_database
    from ntk_dist.settings import get_settings

    given = url or get_settings().service.database_url
    if given is None and not is_made:
        require_workspace(workspace, instead="that of the service, or --database")
    database = open_database(database_url(workspace, given))
    try:
        yield database
    finally:
        database.close()


def _told(record: TokenRecord) -> dict[str, Any]:
    """A token as JSON types, without the hash of its secret."""
    told: dict[str, Any] = to_json(record)
    del told["secret_sha256"]
    return told


def _standing(record: TokenRecord, now: datetime) -> str:
    if record.revoked is not None:
        return f"revoked {record.revoked:%Y-%m-%d}"
    if record.expires is None:
        return "good until it is revoked"
    return f"{'expired' if record.expires <= now else 'good until'} {record.expires:%Y-%m-%d %H:%M}"


COMMANDS = (serve, token, database)
