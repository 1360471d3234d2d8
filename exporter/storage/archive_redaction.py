"""Remove inputs from the archive that were stored before they were redacted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from exporter.features.stored_inputs import remove_inputs
from exporter.storage.archive_files import ArchiveFiles

_Redacted = Mapping[str, Collection[str]]


class Cleaned(NamedTuple):
    """The numbers of files, and of predictions in them, that had redacted inputs; and of files that were left out."""

    files: int
    predictions: int
    left_out: int


def redact_archive(location: str, redacted: _Redacted, last: int, *, dry_run: bool) -> Cleaned:
    """Write the files that hold redacted inputs again without these; each is replaced once the new one is complete.

    One file, and one of its row groups as text, are in memory at a time.

    Parameters
    ----------
    location
        ``store.archive``.
    redacted
        Names of inputs by model.
    last
        The number of the last archived prediction: an exporter may be writing files that begin after it, and
        does so without redacted inputs.
    dry_run
        Whether to count only.

    Raises
    ------
    StoreError
        When a file cannot be read or written.
    """
    archive = ArchiveFiles(location)
    with archive.explained("cannot be read"):
        names = sorted(archive.names())
    finished = [name for name in names if _first_number(name) <= last]
    files = predictions = 0
    for name in finished:
        with archive.explained(f"{name} cannot be cleaned; run the command again to continue"):
            changed = _redact_file(archive, name, redacted, dry_run=dry_run)
        files, predictions = files + (changed > 0), predictions + changed
    return Cleaned(files, predictions, len(names) - len(finished))


def _first_number(name: str) -> int:
    stem = name.rpartition("/")[2].removesuffix(".parquet")
    return int(stem) if stem.isdecimal() else 0


def _redact_file(archive: ArchiveFiles, name: str, redacted: _Redacted, *, dry_run: bool) -> int:
    """Return how many predictions of a file had redacted inputs."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with archive.open(name) as file:
        if not {"model", "inputs"}.issubset(file.schema_arrow.names):
            raise ValueError("it has no columns model and inputs, so no exporter wrote it: move it to another folder")
        groups = range(file.num_row_groups)
        parts = (file.read_row_group(group, columns=["model", "inputs"]) for group in groups)
        changed = sum(_cleaned(part, redacted)[1] for part in parts)
        if dry_run or not changed:
            return changed
        buffer = pa.BufferOutputStream()
        with ParquetWriter(buffer, file.schema_arrow, compression="zstd") as writer:
            for group in groups:
                table = file.read_row_group(group)
                inputs = pa.array(_cleaned(table, redacted)[0], pa.string())
                writer.write_table(table.set_column(table.schema.get_field_index("inputs"), "inputs", inputs))
    archive.replace(name, buffer.getvalue())
    return changed


def _cleaned(table: Any, redacted: _Redacted) -> tuple[list[str | None], int]:
    """Return the inputs without redacted ones, and how many were changed."""
    cleaned: list[str | None] = []
    changed = 0
    rows: Iterable[tuple[str, str | None]] = zip(table["model"].to_pylist(), table["inputs"].to_pylist(), strict=True)
    for model, text in rows:
        without = remove_inputs(text, redacted.get(model, ())) if text else text
        changed += without != text
        cleaned.append(without or None)
    return cleaned, changed
