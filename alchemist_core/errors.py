"""Errors that a user can act on: each text names the value, the limit and the remedy.

The command line prints them without a traceback and exits with their `exit_code`. Code 99 is never used: a bash task of
Airflow takes it for "skipped".

`is_retryable` is whether the same command can succeed when it is run again and nobody has changed anything. A scheduler reads
only exit codes: `FINAL_EXIT_CODES` lists those that it must not retry.

| code | error | retry | why |
| --- | --- | --- | --- |
| 1 | AlchemistError, or a defect | yes | the cause is unknown |
| 2 | ConfigError | no | the same value is refused again |
| 3 | StoreError | yes | a database that restarts is reachable again |
| 4 | LeaseLostError | yes | the next try takes over, or follows the run that did |
| 5 | CheckFailedError | no | the same data fails the same check again; some checks take an hour |
| 6 | DataError | yes | it covers storage that does not answer, which recovers |
| 7 | MissingDependencyError | no | a package is missing until somebody installs it |
| 8 | AirflowError | yes | an API server that restarts is reachable again |
| 9 | TrainingCollapsedError | no | the training resumes from its checkpoint and collapses again |
"""


class AlchemistError(Exception):
    """Stop a command with a message for its user."""

    exit_code = 1
    is_retryable = True


class ConfigError(AlchemistError):
    """Refuse a value that the user gave."""

    exit_code = 2
    is_retryable = False


class StoreError(AlchemistError):
    """Report a database that is absent, unreachable or not migrated."""

    exit_code = 3


class LeaseLostError(AlchemistError):
    """Stop a stage whose lease another process has taken over."""

    exit_code = 4


class CheckFailedError(AlchemistError):
    """Stop at a data check that failed."""

    exit_code = 5
    is_retryable = False


class DataError(AlchemistError):
    """Refuse data that is not what it was registered as."""

    exit_code = 6


class MissingShardError(DataError):
    """Report a registered shard whose file is not there."""


class ChangedShardError(DataError):
    """Report a registered shard that holds other bytes than were registered."""


class UnreachableRootError(DataError):
    """Report storage that cannot be reached: nothing is known of the shards there."""


class MissingDependencyError(AlchemistError):
    """Name the extra that a command needs and that is not installed."""

    exit_code = 7
    is_retryable = False


class TrainingCollapsedError(AlchemistError):
    """Stop a training run that can only get worse, with the reason."""

    exit_code = 9
    is_retryable = False


FINAL_EXIT_CODES = tuple(sorted(error.exit_code for error in AlchemistError.__subclasses__() if not error.is_retryable))
"""Exit codes after which the same command fails again: Airflow fails such a task without a retry."""
