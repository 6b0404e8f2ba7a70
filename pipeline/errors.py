"""The errors a user can meet, one small family for both packages.

A message names the thing, what was found, what was expected, and what to do. Entry points catch
`YfccError`, log the message without a traceback and exit with the error's `exit_code`; every
other exception is a bug and keeps its traceback.
"""

from __future__ import annotations


class YfccError(Exception):
    """Something the user can act on."""

    exit_code = 1


class ConfigError(YfccError):
    """Settings that contradict each other, are out of range, or differ from an earlier run's."""

    exit_code = 2


class InputError(YfccError):
    """A file the user gave is missing, unreadable, or not what it should be."""


class StoreError(YfccError):
    """A folder or object store could not be read or written."""


class ManifestError(YfccError):
    """A manifest is missing, malformed, or disagrees with what it describes."""


class ShardError(YfccError):
    """A shard or its index is damaged."""


class RejectionLimitError(YfccError):
    """More rows were rejected than the run allows."""

    exit_code = 3


class CheckpointError(YfccError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class DivergedError(YfccError):
    """Training cannot go on: the loss is no longer a finite number."""


class RankLostError(YfccError):
    """Another process of a run is gone, so the run cannot go on."""

    exit_code = 69
