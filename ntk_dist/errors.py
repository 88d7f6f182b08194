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
     │    ├── RequestError                           400  a request that does not validate
     │    │    ├── UnsupportedMediaTypeError         415  a body of a kind that is not read here
     │    │    ├── RequestTooLargeError              413  more bytes or rows than one may send
     │    │    └── ChecksumMismatchError             422  an upload that arrived otherwise
     │    ├── NotFoundError (LookupError)            404  nothing is kept under that name
     │    │    ├── JobNotFoundError
     │    │    ├── ModelNotFoundError
     │    │    └── UploadNotFoundError
     │    ├── ConflictError                          409  it is in no state for that
     │    │    └── IdempotencyError                       a key used before, for something else
     │    ├── AuthenticationError                    401  no token, or one that is not valid
     │    ├── ForbiddenError                         403  a token, or data, that does not go so far
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
     ├── SolveError                               3  500  the linear system
     │    ├── NotConvergedError                           the answer so far is kept
     │    └── BreakdownError                              indefinite or non-finite operator
     ├── ServiceError                             4  503  the service, or the way to it
     │    ├── ServiceUnreachableError (ConnectionError)
     │    ├── ServiceTimeoutError (TimeoutError)     504
     │    ├── OverloadedError                        429  ask again in ``retry_after_s`` seconds
     │    └── DefectError                         1  500  a mistake of ours, told by its id
     └── JobError                                 1  500  a job that is waited for came to nothing
          ├── JobFailedError
          ├── JobCancelledError                      409
          └── JobLostError                           503  its driver is gone; it can be resumed
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArchitectureError",
    "ArtifactError",
    "AuthenticationError",
    "BlockCorruptError",
    "BlockNotFoundError",
    "BreakdownError",
    "BudgetError",
    "ChecksumMismatchError",
    "ConflictError",
    "DataError",
    "DataShapeError",
    "DefectError",
    "DiskBudgetError",
    "EmptyDataError",
    "ExecutorError",
    "ExecutorUnreachableError",
    "ForbiddenError",
    "IdempotencyError",
    "InvalidInputError",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "JobLostError",
    "JobNotFoundError",
    "JobSpecError",
    "LabelError",
    "ManifestMismatchError",
    "MemoryBudgetError",
    "MissingDependencyError",
    "ModelNotFoundError",
    "NTKDistError",
    "NonFiniteDataError",
    "NotConvergedError",
    "NotFoundError",
    "OverloadedError",
    "RequestError",
    "RequestTooLargeError",
    "ServiceError",
    "ServiceTimeoutError",
    "ServiceUnreachableError",
    "SettingsError",
    "SolveError",
    "StoreError",
    "StoreFullError",
    "StoreUnreachableError",
    "TaskError",
    "UnreadableDataError",
    "UnsupportedMediaTypeError",
    "UploadNotFoundError",
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


class RequestError(InvalidInputError):
    """A request to the service does not validate; the message names every culprit."""

    code = "invalid_request"
    http_status = 400


class UnsupportedMediaTypeError(RequestError):
    """The body is of a kind that is not read at this address."""

    code = "unsupported_media_type"
    http_status = 415


class RequestTooLargeError(RequestError):
    """The body has more bytes, or more rows, than one request may have."""

    code = "too_large"
    http_status = 413


class ChecksumMismatchError(RequestError):
    """What arrived is not what was announced; send it again."""

    code = "checksum_mismatch"
    http_status = 422


class NotFoundError(InvalidInputError, LookupError):
    """Nothing is kept under that name."""

    code = "not_found"
    http_status = 404


class JobNotFoundError(NotFoundError):
    """There is no job of that id."""

    code = "job_not_found"


class ModelNotFoundError(NotFoundError):
    """There is no model, or no version of it, under that name."""

    code = "model_not_found"


class UploadNotFoundError(NotFoundError):
    """There is no upload of that id."""

    code = "upload_not_found"


class ConflictError(InvalidInputError):
    """It is in no state in which that can be done."""

    code = "conflict"
    http_status = 409


class IdempotencyError(ConflictError):
    """The idempotency key came before, with another body."""

    code = "idempotency_key_reused"


class AuthenticationError(InvalidInputError):
    """There is no token, or it is unknown, revoked or expired."""

    code = "unauthenticated"
    http_status = 401


class ForbiddenError(InvalidInputError):
    """The token does not go so far, or the data lie where jobs of the service may not read."""

    code = "forbidden"
    http_status = 403


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


class ServiceError(NTKDistError):
    """The service, or the way to it, failed."""

    code = "service_error"
    http_status = 503
    exit_code = 4


class ServiceUnreachableError(ServiceError, ConnectionError):
    """No service answers at the address given."""

    code = "service_unreachable"


class ServiceTimeoutError(ServiceError, TimeoutError):
    """The service, or a job that was waited for, took longer than was allowed."""

    code = "service_timeout"
    http_status = 504


class OverloadedError(ServiceError):
    """The service has as much to do as it takes; it says when to ask again."""

    code = "overloaded"
    http_status = 429
    retry_after_s: float = 1.0
    """Seconds after which another try may go through."""


class DefectError(ServiceError):
    """A mistake of ours; the service's log says more under the id of the request."""

    code = "defect"
    http_status = 500
    exit_code = 1


class JobError(NTKDistError):
    """A job that was waited for came to no model."""

    code = "job_error"


class JobFailedError(JobError):
    """The job failed; the message is that of its own error."""

    code = "job_failed"


class JobCancelledError(JobError):
    """Somebody cancelled the job; what it had computed is kept."""

    code = "job_cancelled"
    http_status = 409


class JobLostError(JobError):
    """The driver of the job is gone; resume it, and it goes on where it was."""

    code = "job_lost"
    http_status = 503
