"""Errors that a user can act on: each message states what is wrong, what is allowed and what to do.

The command line prints them without a traceback and exits with their `exit_code`. Code 99 is never used, because a bash
task of Airflow treats it as "skipped".

`is_retryable` states whether the same command can succeed when it runs again without any change. A scheduler reads only exit
codes: `FINAL_EXIT_CODES` lists those that it must not retry.

| code | error | retry | why |
| --- | --- | --- | --- |
| 1 | AlchemistError, or a defect | yes | the cause is unknown |
| 2 | ConfigError | no | the same value is refused again |
| 3 | StoreError | yes | a database that restarts is reachable again |
| 4 | LeaseLostError | yes | the next try takes over, or waits for the run that did |
| 5 | CheckFailedError | no | the same data fails the same check again; some checks take an hour |
| 6 | DataError | yes | it includes unreachable storage, which recovers |
| 7 | MissingDependencyError | no | the package must be installed first |
| 8 | AirflowError | yes | an API server that restarts is reachable again |
| 9 | TrainingCollapsedError | no | the training resumes from its checkpoint and collapses again |
"""


class AlchemistError(Exception):
    """Stop a command with a message for its user."""

    exit_code = 1
    is_retryable = True


class ConfigError(AlchemistError):
    """Refuse a value given by the user."""

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
    """Refuse data that differs from what was registered."""

    exit_code = 6


class MissingShardError(DataError):
    """Report a registered shard whose file does not exist."""


class ChangedShardError(DataError):
    """Report a registered shard whose bytes differ from those registered."""


class ReplacedObjectError(DataError):
    """Report an object of which another version was stored while it was read."""


class UnreachableRootError(DataError):
    """Report unreachable storage; the state of its shards is unknown."""


class MissingDependencyError(AlchemistError):
    """Report that a command needs an extra that is not installed."""

    exit_code = 7
    is_retryable = False


class TrainingCollapsedError(AlchemistError):
    """Stop a training run that can only get worse, with the reason."""

    exit_code = 9
    is_retryable = False


FINAL_EXIT_CODES = tuple(sorted(error.exit_code for error in AlchemistError.__subclasses__() if not error.is_retryable))
"""Exit codes that Airflow does not retry, because the same command would fail again."""
