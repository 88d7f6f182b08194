"""What a job that comes over HTTP may refer to, and what that means on this machine.

A caller names files by ``upload://ID`` or by a path (or ``s3://`` address) under one of the roots
that the operator has listed. Nothing else is opened for anybody: no other path, however it is
spelled, and no other address.
"""

from __future__ import annotations

from pathlib import Path

from ntk_dist.errors import (
    ArchitectureError,
    ForbiddenError,
    InvalidInputError,
    JobSpecError,
    SettingsError,
    UnreadableDataError,
)
from ntk_dist.executors import parse_executor
from ntk_dist.jobs.runner import self_contained
from ntk_dist.jobs.spec import DataSpec, JobSpec
from ntk_dist.service.uploads import SCHEME, Uploads
from ntk_dist.settings import ServiceSettings
from ntk_dist.store.location import is_remote

__all__ = ["Roots", "admitted", "require_executors"]


class Roots:
    """Where jobs of callers may read.

    Raises
    ------
    SettingsError
        A root is no absolute path and no ``s3://`` address, or has a colon in its path.
    """

    def __init__(self, roots: tuple[str, ...]) -> None:
        for root in roots:
            is_path = Path(root).is_absolute() and ":" not in root
            if not (is_path or root.startswith("s3://")):
                raise SettingsError(
                    "NTK_DIST_SERVICE__DATA_ROOTS: expected absolute folders without a colon in "
                    f"them, or s3://BUCKET/PREFIX, got {root!r}"
                )
        self._folders = tuple(Path(root) for root in roots if not is_remote(root))
        self._addresses = tuple(f"{root.rstrip('/')}/" for root in roots if is_remote(root))
        self._listed = ", ".join(roots)

    def path(self, name: str, what: str) -> str:
        """``name`` if it is allowed, every symbolic link in it followed.

        Parameters
        ----------
        name
            ``PATH``, ``PATH:array`` or ``s3://BUCKET/KEY``.
        what
            What it is in the job, for messages.

        Raises
        ------
        ForbiddenError
            It lies elsewhere.
        UnreadableDataError
            There is no such file.
        """
        if is_remote(name):
            steps = name.partition("://")[2].split("/")
            if not name.startswith(self._addresses) or {"", ".", ".."} & set(steps):
                raise self._forbidden(name, what)
            return name
        allowed = [folder for folder in self._folders if _is_below(name, folder)]
        if not allowed:
            raise self._forbidden(name, what)
        # As when it is read: the shortest part before a colon that exists is the path.
        ends = [k for k, character in enumerate(name) if character == ":"]
        for end in [*ends, len(name)]:
            try:
                found = Path(name[:end]).resolve(strict=True)
            except (OSError, RuntimeError):  # absent, unreadable, or links in a circle
                continue
            if not any(found.is_relative_to(folder.resolve()) for folder in self._folders):
                raise self._forbidden(name, what)
            return f"{found}{name[end:]}"
        raise UnreadableDataError(f"{what}: expected a data file, got {name!r}, which is none")

    def _forbidden(self, name: str, what: str) -> ForbiddenError:
        below = f", or something below {self._listed}" if self._listed else ""
        return ForbiddenError(f"{what}: expected {SCHEME}ID of an upload{below}, got {name!r}")


def _is_below(name: str, folder: Path) -> bool:
    steps, above = Path(name).parts, folder.parts
    if not name.isprintable() or ".." in name.replace(":", "/").split("/"):
        return False
    return steps[: len(above)] == above and len(steps) > len(above)


def require_executors(names: tuple[str, ...]) -> None:
    """Refuse names of executors before a job is run on one, rather than then.

    Raises
    ------
    SettingsError
        One of them is none.
    """
    for name in names:
        try:
            parse_executor(name)
        except InvalidInputError as error:
            raise SettingsError(f"NTK_DIST_SERVICE__EXECUTORS: {error}") from error


def admitted(
    job: JobSpec, *, workspace: str, settings: ServiceSettings, roots: Roots, uploads: Uploads
) -> JobSpec:
    """The job as a driver of this service is to run it.

    Raises
    ------
    JobSpecError
        It names a workspace: the service has its own; or a step of preprocessing that there is
        not, or it cannot be fitted that way.
    ForbiddenError
        It refers to data or an executor that callers may not use.
    UploadNotFoundError, ConflictError
        It refers to an upload that is not there, or not complete.
    UnreadableDataError
        A file is not there.
    ArchitectureError
        Its layers cannot follow each other.
    """
    if "workspace" in job.model_fields_set:
        raise JobSpecError("workspace: unknown key (the service keeps everything in its own)")
    executor = job.executor if "executor" in job.model_fields_set else settings.executors[0]
    if executor not in settings.executors:
        raise ForbiddenError(
            f"executor: expected one of {', '.join(settings.executors)}, got {executor!r}: leave "
            f"executor out of the job to have it run on {settings.executors[0]}"
        )

    def resolve(name: str, what: str) -> str:
        return uploads.place(name) if name.startswith(SCHEME) else roots.path(name, what)

    def resolve_data(data: DataSpec, what: str) -> DataSpec:
        return DataSpec(x=resolve(data.x, f"{what}.x"), y=resolve(data.y, f"{what}.y"))

    architecture = job.architecture
    if isinstance(architecture, str) and not architecture.lstrip().startswith("["):
        architecture = roots.path(architecture, "architecture")
        if is_remote(architecture):
            raise ArchitectureError("architecture: expected the JSON itself, or a file, no address")
    known = job.model_copy(
        update={
            "data": resolve_data(job.data, "data"),
            "test": resolve_data(job.test, "test") if job.test else None,
            "architecture": architecture,
            "executor": executor,
            "workspace": workspace,
        }
    )
    # A layer or a step that is misspelled must not show after a wait in the queue.
    return self_contained(known)
