"""Choose the versions to compare."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.errors import CompareError, NoPairError
from exporter.validation import preview, suggestion


def choose(model: str, names: Sequence[str], before: str | None = None, after: str | None = None) -> tuple[str, str]:
    """Return the version to compare with, and the version to judge.

    Parameters
    ----------
    model
        The model's name.
    names
        Its versions in the order in which they appeared.
    before, after
        The versions that were asked for. By default ``after`` is the one that appeared last, and ``before`` the one
        that appeared last before it.

    Raises
    ------
    CompareError
        When a version is not known.
    NoPairError
        When there are not two.

    Examples
    --------
    >>> choose("digits", ["1", "3", "2"]), choose("digits", ["1", "3", "2"], after="3")
    (('3', '2'), ('1', '3'))
    """
    if not names:
        raise CompareError(f"no version of {preview(model)} has served yet")
    for name in (before, after):
        if name is not None and name not in names:
            raise CompareError(f"version {preview(name)} of {preview(model)} is not known; {suggestion(name, names)}")
    if after is None:
        after = next((name for name in reversed(names) if name != before), None)
    if before is None and after is not None:
        index = names.index(after)
        before = names[index - 1] if index else None
    if before is None or after is None:
        known = ", ".join(map(preview, names))
        raise NoPairError(f"there is no other version of {preview(model)} to compare with: only {known} is known")
    if before == after:
        raise NoPairError(f"before and after are the same version {preview(after)}")
    return before, after


def never_together(model: str, before: str, after: str, where: str = "") -> NoPairError:
    """Return the error for two versions that never served at the same time."""
    versions = f"{preview(before)} and {preview(after)} of {preview(model)}"
    return NoPairError(f"versions {versions} never served at the same time{where}")
