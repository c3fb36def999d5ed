"""Errors that a user can act on: each text names the value, the limit and the remedy.

The command line prints them without a traceback and exits with their `exit_code`. Code 99 is never used: a bash task of
Airflow takes it for "skipped".
"""


class AlchemistError(Exception):
    """Stop a command with a message for its user."""

    exit_code = 1


class ConfigError(AlchemistError):
    """Refuse a value that the user gave."""

    exit_code = 2


class StoreError(AlchemistError):
    """Report a database that is absent, unreachable or not migrated."""

    exit_code = 3


class LeaseLostError(AlchemistError):
    """Stop a stage whose lease another process has taken over."""

    exit_code = 4


class CheckFailedError(AlchemistError):
    """Stop at a data check that failed."""

    exit_code = 5


class DataError(AlchemistError):
    """Refuse data that is not what it was registered as."""

    exit_code = 6


class MissingDependencyError(AlchemistError):
    """Name the extra that a command needs and that is not installed."""

    exit_code = 7


class TrainingCollapsedError(AlchemistError):
    """Stop a training run that can only get worse, with the reason."""

    exit_code = 9
