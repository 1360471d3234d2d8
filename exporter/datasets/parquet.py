"""Parquet: typed columns, written in row groups."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from exporter.datasets.examples import Page, Pages
from exporter.datasets.formats import FIELDS, OTHER, Columns, Format

ROWS = 10_000
"""Rows in a group, at the most."""
GROUP_BYTES = 8 * 2**20
"""Bytes of a group's columns after which it ends."""
_ANSWERS = ("label", "prediction", "user_label")  # of one type, so that they can be compared
_TIMES = ("reviewed", "predicted")
_WHOLE = 2**63


class _Sink(io.RawIOBase):
    """Takes what is written, until it is taken away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._place = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._place += len(self._parts[-1])
        return len(self._parts[-1])

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


class _Types:
    """The type of each column, by all values that it will hold."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}

    def see(self, name: str, value: Any) -> None:
        if value is not None:
            kind = type(value).__name__
            outside = kind == "int" and not -_WHOLE <= value < _WHOLE
            self._seen.setdefault(name, set()).add("outside" if outside else kind)

    def of(self, name: str) -> str:
        """One of ``str``, ``bool``, ``int``, ``float``, and ``json`` for what is mixed or nested."""
        seen = self._seen.get(name, {"str"})
        if len(seen) == 1 and seen <= {"str", "bool", "int", "float"}:
            return next(iter(seen))
        return "float" if seen == {"int", "float"} else "json"


def _write(pages: Pages, types: Mapping[str, str]) -> Iterator[bytes]:
    import pyarrow as pa  # only where asked for: it is large
    import pyarrow.parquet as pq

    inputs, answers = _Types(), _Types()

    def first() -> Iterator[Page]:
        for page in pages():
            for one in page:
                for name in _ANSWERS:
                    answers.see("", getattr(one, name))
            yield page

    columns = Columns(first, types, inputs.see)
    arrow = {"str": pa.string(), "json": pa.string(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}
    kinds = dict.fromkeys(FIELDS, "str") | {"confidence": "float", "revision": "int"}
    kinds |= dict.fromkeys(_ANSWERS, answers.of(""))
    fields = [
        pa.field(name, pa.timestamp("us", "UTC") if name in _TIMES else arrow[kind], metadata=_note(kind))
        for name, kind in kinds.items()
    ]
    found = [(name, inputs.of(name)) for name in columns.names]
    fields += [pa.field(f"inputs.{name}", arrow[kind], metadata=_note(kind)) for name, kind in found]
    if columns.more:
        fields.append(pa.field(OTHER, pa.string(), metadata=_note("json")))

    def table(page: Page) -> Any:
        values = [[_value(getattr(one, name), kind, name in _TIMES) for one in page] for name, kind in kinds.items()]
        values += [[_value((one.inputs or {}).get(name), kind) for one in page] for name, kind in found]
        rest = [_value(columns.rest(one.inputs or {}), "json") for one in page]
        if columns.more:
            values.append(rest)
        arrays = [pa.array(column, field.type) for column, field in zip(values, fields, strict=True)]
        return pa.Table.from_arrays(arrays, schema=schema)

    schema, sink = pa.schema(fields), _Sink()
    with pq.ParquetWriter(sink, schema) as writer:
        group: list[Any] = []
        for page in pages():
            group.append(table(page))  # at once: Python's values take many times as much
            if sum(part.num_rows for part in group) >= ROWS or sum(part.nbytes for part in group) >= GROUP_BYTES:
                writer.write_table(pa.concat_tables(group))
                group = []
                yield sink.take()
        if group:
            writer.write_table(pa.concat_tables(group))
    yield sink.take()


def _note(kind: str) -> dict[str, str] | None:
    return {"content": "application/json"} if kind == "json" else None


def _value(value: Any, kind: str, time: bool = False) -> Any:
    if value is None:
        return None
    if kind == "json":
        return msgspec.json.encode(value).decode()
    if kind == "float":
        return float(value)
    return datetime.fromisoformat(value) if time else value


FORMAT = Format("parquet", "parquet", "application/vnd.apache.parquet", _write)
