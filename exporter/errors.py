"""The exceptions of the package.

::

    ExporterError
    ├── ConfigError          exporter.yml or a file it names is wrong
    │   ├── ModelFileError   files of models_folder are wrong
    │   └── ProfileError     a training profile is wrong or foreign
    ├── UsageError           options of a command are not valid, or do not go together
    ├── BatchError           rows of a batch job cannot be read, sent or pushed
    ├── CompareError         there is no data of what is to be compared
    │   └── NoPairError      there are no two versions that served together
    ├── EventError           an event that arrived is wrong
    ├── PrometheusError      Prometheus cannot be reached, or reports an error
    ├── SlicesError          there is nothing in which slices could be found
    ├── QueueFullError       no room left: try again later
    ├── StoreError           the database could not read or write
    │   └── StoreFullError   store.max_size leaves no room for what is kept
    └── StackError           a program of the stack is missing, or did not start
"""

from __future__ import annotations

import json


class ExporterError(Exception):
    """Base of every error this package raises on purpose; its text is meant for people."""


class ConfigError(ExporterError):
    """A configuration file is wrong; the text names the file, the key, what is wrong and what would be right."""


class ModelFileError(ConfigError):
    """Files of ``models_folder`` are wrong; everything else in the configuration is in use."""


class ProfileError(ConfigError):
    """A training profile cannot be read, or training data cannot be profiled."""


class UsageError(ExporterError):
    """An option of a command is missing, is not valid, or does not go with the others; the exit status is 2."""


class BatchError(ExporterError):
    """Rows of a batch job cannot be read, sent or pushed; the text says what was done before."""


class CompareError(ExporterError):
    """There is no data to compare; the text says what to do."""


class NoPairError(CompareError):
    """There are no two versions that served at the same time, so that only periods can be compared."""


class PrometheusError(ExporterError):
    """Prometheus cannot be reached, or reports an error; the text says what to do."""


class SlicesError(ExporterError):
    """There is nothing in which slices could be found; the text says what to do."""


class EventError(ExporterError):
    """One event is wrong.

    Parameters
    ----------
    pointer
        JSON pointer (RFC 6901) to the field, ``""`` for the whole event.
    detail
        What was wrong with it and what would be right.
    reason
        Value of the ``reason`` label it is counted under; one of `REASONS`.
    """

    def __init__(self, pointer: str, detail: str, reason: str) -> None:
        super().__init__(f"{pointer or 'event'}: {detail}")
        self.pointer = pointer
        self.detail = detail
        self.reason = reason


REASONS = (
    "malformed",
    "missing_field",
    "out_of_range",
    "overloaded",
    "rate_limited",
    "too_large",
    "too_long",
    "unknown_event",
    "unknown_model",
    "wrong_type",
)
"""Every reason for which an event, or a request with events that nobody looked at, can be refused."""

WARNINGS = ("time_off", "unknown_member")
"""Every reason for which an event that is accepted looks wrong."""


class QueueFullError(ExporterError):
    """The queue has no room; the client should retry after a moment."""


class StoreError(ExporterError):
    """The store could not read or write; nothing was acknowledged."""


class StoreFullError(StoreError):
    """There is no room in ``store.max_size`` for what is never deleted; nothing was stored."""


class ArchiveError(StoreError):
    """The archive could not be read or written; the next attempt may take as long until it fails."""


class StackError(ExporterError):
    """A program of the stack is missing, its port is taken, or it did not become ready."""


def printable(text: str) -> str:
    r"""Escape the characters of a text that a terminal or a viewer would interpret; line ends stay.

    >>> print(printable("\x1b[31mred"))
    \u001b[31mred
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
