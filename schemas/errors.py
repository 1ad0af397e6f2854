"""Errors that end a command with one line for a person."""


class ConfigError(Exception):
    """Bad configuration: the command stops before any work, prints this one line and exits with code 2.

    The message says what was wrong, where, and what to do.
    """


class DataError(Exception):
    """A dataset on disk contradicts its manifest: a missing file, a wrong hash, rows that do not line up.

    The command prints this one line and exits with code 1; nothing half-written is left behind.
    """


class Interrupted(Exception):
    """A stage was asked to stop (SIGTERM) and saved where it stood; the command says so and exits with code 0."""
