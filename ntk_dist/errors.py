"""Every error this package raises on purpose.

A caller catches the class it can act on; a person reads the message, which says what was
expected, what came instead (with units) and what to do. Each class has a stable ``code`` for
machines, the process ``exit_code`` of the command line and the ``http_status`` of the service
(drawn where they are not inherited)::

    NTKDistError                                  1  500
     ├── InvalidInputError (ValueError)           2  422  what was asked for makes no sense
     │    ├── ArchitectureError                           layers that cannot follow each other
     │    ├── DataError                                   the numbers given
     │    │    ├── UnreadableDataError                    missing, truncated or unknown file
     │    │    ├── EmptyDataError                         no rows, or no features
     │    │    ├── DataShapeError                         wrong rank, image size or channels
     │    │    ├── NonFiniteDataError                     NaN or infinite rows, by index
     │    │    └── LabelError                             not one per row, or a single class
     │    ├── JobSpecError                                a job file that does not validate
     │    ├── SettingsError                               an NTK_DIST_* variable, or the file
     │    └── BudgetError                            413  refused before starting
     │         ├── MemoryBudgetError
     │         └── DiskBudgetError
     ├── StoreError (OSError)                     4  503  the workspace
     │    ├── StoreFullError                         507  no space left, nothing lost
     │    ├── StoreUnreachableError                       cannot be opened, read or written
     │    ├── BlockNotFoundError (KeyError)          404
     │    ├── BlockCorruptError                           damaged, found and deleted
     │    ├── ManifestMismatchError               2  409  of another architecture or data set
     │    └── ArtifactError                       2  422  a model folder that is no model
     ├── ExecutorError                            4  503  whoever runs the tasks
     │    ├── ExecutorUnreachableError (ConnectionError)
     │    ├── MissingDependencyError (ImportError)  2  501
     │    └── TaskError                              500  failed for good; cause attached
     └── SolveError                               3  500  the linear system
          ├── NotConvergedError                           the answer so far is kept
          └── BreakdownError                              indefinite or non-finite operator
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArchitectureError",
    "ArtifactError",
    "BlockCorruptError",
    "BlockNotFoundError",
    "BreakdownError",
    "BudgetError",
    "DataError",
    "DataShapeError",
    "DiskBudgetError",
    "EmptyDataError",
    "ExecutorError",
    "ExecutorUnreachableError",
    "InvalidInputError",
    "JobSpecError",
    "LabelError",
    "ManifestMismatchError",
    "MemoryBudgetError",
    "MissingDependencyError",
    "NTKDistError",
    "NonFiniteDataError",
    "NotConvergedError",
    "SettingsError",
    "SolveError",
    "StoreError",
    "StoreFullError",
    "StoreUnreachableError",
    "TaskError",
    "UnreadableDataError",
]


class NTKDistError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[str] = "error"
    """Stable name for machines; never reused for another meaning."""
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        # KeyError prints repr(args[0]); ours are sentences, so every class prints the sentence.
        return str(self.args[0]) if self.args else self.code


class InvalidInputError(NTKDistError, ValueError):
    """What was asked for makes no sense; asking again will not help."""

    code = "invalid_input"
    http_status = 422
    exit_code = 2


class ArchitectureError(InvalidInputError):
    """An unknown layer, a bad argument, or layers that cannot follow each other."""

    code = "invalid_architecture"


class DataError(InvalidInputError):
    """The numbers given cannot be used."""

    code = "invalid_data"


class UnreadableDataError(DataError):
    """A data file is missing, truncated, or in no format known here."""

    code = "unreadable_data"


class EmptyDataError(DataError):
    """There are no rows, or the rows have no features."""

    code = "empty_data"


class DataShapeError(DataError):
    """The rank, image size, feature or channel count is not the expected one."""

    code = "wrong_shape"


class NonFiniteDataError(DataError):
    """Some rows hold NaN or infinity; the message names them by index."""

    code = "non_finite_data"


class LabelError(DataError):
    """Targets do not match the rows, or do not define a classification problem."""

    code = "invalid_labels"


class JobSpecError(InvalidInputError):
    """A job file has an unknown key, a missing key or a value of the wrong kind."""

    code = "invalid_job"


class SettingsError(InvalidInputError):
    """An ``NTK_DIST_*`` variable or the settings file does not validate."""

    code = "invalid_settings"


class BudgetError(InvalidInputError):
    """The work does not fit and was refused before it started."""

    code = "over_budget"
    http_status = 413


class MemoryBudgetError(BudgetError):
    """Projected memory is more than there is."""

    code = "over_memory_budget"


class DiskBudgetError(BudgetError):
    """Projected disk use is more than is free."""

    code = "over_disk_budget"


class StoreError(NTKDistError, OSError):
    """The workspace could not do what was asked of it."""

    code = "store_error"
    http_status = 503
    exit_code = 4


class StoreFullError(StoreError):
    """No space is left. Finished blocks stay; the same command continues from them."""

    code = "store_full"
    http_status = 507


class StoreUnreachableError(StoreError):
    """The workspace cannot be opened, read or written."""

    code = "store_unreachable"


class BlockNotFoundError(StoreError, KeyError):
    """A block is not in the store."""

    code = "block_not_found"
    http_status = 404


class BlockCorruptError(StoreError):
    """A stored block failed its checksum; it has been deleted and must be recomputed."""

    code = "block_corrupt"


class ManifestMismatchError(StoreError):
    """The stored Gram matrix belongs to another architecture, data set or block grid."""

    code = "manifest_mismatch"
    http_status = 409
    exit_code = 2


class ArtifactError(StoreError):
    """A folder that should hold a fitted model does not, or holds one we cannot read."""

    code = "invalid_artifact"
    http_status = 422
    exit_code = 2


class ExecutorError(NTKDistError):
    """Whoever runs the tasks failed."""

    code = "executor_error"
    http_status = 503
    exit_code = 4


class ExecutorUnreachableError(ExecutorError, ConnectionError):
    """No scheduler or cluster answers at the address given."""

    code = "executor_unreachable"


class MissingDependencyError(ExecutorError, ImportError):
    """An optional library is needed and not installed; the message names the extra."""

    code = "missing_dependency"
    http_status = 501
    exit_code = 2


class TaskError(ExecutorError):
    """A task failed for good, after its retries; the cause is attached with ``from``."""

    code = "task_failed"
    http_status = 500


class SolveError(NTKDistError):
    """The linear system was not solved."""

    code = "solve_failed"
    exit_code = 3


class NotConvergedError(SolveError):
    """The step limit came before the tolerance; the answer so far is kept."""

    code = "not_converged"


class BreakdownError(SolveError):
    """The Gram matrix is indefinite or not finite, so no answer can be trusted."""

    code = "breakdown"
