"""The tables of a zoo: Arrow schemas, their documentation, and validation on read and write.

One table a stage. Each schema carries its version, and each field its unit and meaning, in the Arrow
metadata, so that a Parquet file explains itself. Errors and accuracies are percent, amounts image counts.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from zoo.columns import COLUMNS, FAILURE_TASKS, PROVENANCE, REMEDIES, REMEDY_TASKS, Column

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "COLUMNS",
    "FAILURE_TASKS",
    "REMEDIES",
    "REMEDY_TASKS",
    "SCHEMAS",
    "SCHEMA_VERSION",
    "check",
    "from_bytes",
    "from_frame",
    "markdown",
    "read",
    "rows_to_bytes",
    "to_bytes",
    "to_table",
]

SCHEMA_VERSION = 3


def _schema(columns: tuple[Column, ...]) -> pa.Schema:
    fields = [pa.field(c.name, c.type, metadata={"unit": c.unit, "meaning": c.meaning}) for c in columns]
    return pa.schema(fields, metadata={"mdzoo_schema_version": str(SCHEMA_VERSION)})


SCHEMAS: dict[str, pa.Schema] = {name: _schema(columns) for name, columns in COLUMNS.items()}
"""The Arrow schema of each table, by name."""

FROM_RUN = ("run_id", "config_id", "seed", "recipe", *(column.name for column in PROVENANCE))
"""Columns of `history` that are its run's."""

HISTORY_LIST = pa.field(
    "history",
    pa.list_(pa.struct([f for f in SCHEMAS["history"] if f.name not in FROM_RUN])),
    metadata={"unit": "", "meaning": "rows of the table history of this run"},
)

SCHEMAS["run_fragments"] = SCHEMAS["runs"].append(HISTORY_LIST)
"""What a training task commits: rows of `runs`, each with its history nested, so that one file is the commit."""


def markdown(names: Iterable[str] = COLUMNS) -> str:
    """The tables as Markdown: one section a table, one line a column."""
    lines = []
    for name in names:
        columns = COLUMNS[name]
        lines += [f"#### `{name}`", "", "| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| `{c.name}` | {c.type} | {c.unit} | {c.meaning} |" for c in columns]
        lines.append("")
    return "\n".join(lines)


DICTIONARY = """# The tables

Every Parquet file carries these units and meanings in its field metadata, and a schema version that is checked when
it is read. Errors and accuracies are percent, losses nats, amounts image counts. A zoo has `configs`, `runs`,
`history`, `metrics` and `labels`; a benchmark has the others.

"""


def dictionary() -> str:
    """The data dictionary of all tables, as Markdown."""
    return DICTIONARY + markdown().replace("####", "##").strip() + "\n"


def to_table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of the named schema.

    Args:
        name: A key of `SCHEMAS`.
        rows: One dict a row; a missing key is null.

    Raises:
        ValueError: If a row has a key that the schema does not, or a value of another type.
    """
    schema = SCHEMAS[name]
    names = set(schema.names)
    for row in rows:
        if unknown := sorted(row.keys() - names):
            raise ValueError(f"table {name} has no columns {unknown}; its columns are {schema.names}")
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a row does not fit the schema of table {name}: {error}") from error


def from_frame(name: str, frame: pd.DataFrame) -> pa.Table:
    """A DataFrame as an Arrow table of the named schema; a missing column and NaN are null.

    Raises:
        ValueError: If it has a column that the schema does not, or a value of another type.
    """
    schema = SCHEMAS[name]
    if unknown := sorted(set(frame.columns) - set(schema.names)):
        raise ValueError(f"table {name} has no columns {unknown}; its columns are {schema.names}")
    try:
        return pa.Table.from_pandas(
            frame.reindex(columns=schema.names), schema=schema, preserve_index=False
        ).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a row does not fit the schema of table {name}: {error}") from error


def to_bytes(table: pa.Table, rows_a_group: int | None = None) -> bytes:
    """The table as the bytes of a Parquet file.

    Args:
        table: The table.
        rows_a_group: Rows that a reader reads together; None leaves it to Arrow.
    """
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=rows_a_group)
    return sink.getvalue()


ROWS_AT_ONCE = 10_000


def rows_to_bytes(name: str, rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as the bytes of a Parquet file of the named schema; they need not fit in memory as rows.

    Raises:
        ValueError: As `to_table`.
    """
    sink, left = io.BytesIO(), iter(rows)
    with pq.ParquetWriter(sink, SCHEMAS[name], compression="zstd") as writer:
        writer.write_table(to_table(name, list(islice(left, ROWS_AT_ONCE))))
        while batch := list(islice(left, ROWS_AT_ONCE)):
            writer.write_table(to_table(name, batch))
    return sink.getvalue()


def from_bytes(name: str, data: bytes, source: str) -> pa.Table:
    """The table in the bytes of a Parquet file, checked against the named schema.

    Args:
        name: A key of `SCHEMAS`.
        data: The file's bytes.
        source: What to call the file in an error.

    Raises:
        ValueError: If the bytes are no Parquet file, or hold another schema or schema version.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
            table = file.read(
                use_threads=False
            )  # Arrow's threads abort the interpreter if it exits meanwhile
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{source} is not a readable Parquet file ({error}); delete it and run again"
        ) from error
    check(name, table.schema, source)
    return table


Filters = Sequence[tuple[str, str, Any]]
"""Conditions that all have to hold, as `("width", ">=", 4)`; see `pyarrow.parquet.read_table`."""


def read(
    name: str,
    file: pa.NativeFile,
    source: str,
    columns: Sequence[str] | None = None,
    filters: Filters | None = None,
) -> pa.Table:
    """Of a Parquet file the rows and columns that are asked for; others are not read, as far as they lie apart.

    Args:
        name: A key of `SCHEMAS`.
        file: The file.
        source: What to call it in an error.
        columns: Names of columns; None reads all.
        filters: Conditions on rows.

    Raises:
        ValueError: As `from_bytes`, or if a column is not one of the table's.
    """
    asked = {*(columns or ()), *(column for column, *_ in filters or ())}
    if unknown := sorted(asked - set(SCHEMAS[name].names)):
        raise ValueError(
            f"table {name} has no columns {unknown}; its columns are {', '.join(SCHEMAS[name].names)}"
        )
    try:
        check(name, pq.read_schema(file), source)
        file.seek(0)
        return pq.read_table(
            file,
            columns=None if columns is None else list(columns),
            filters=[_typed(name, *condition) for condition in filters] if filters else None,
            use_threads=False,  # Arrow's threads abort the interpreter if it exits meanwhile
            pre_buffer=False,
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{source} is not a readable Parquet file ({error}); get it again") from error
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError) as error:
        raise ValueError(f"table {name} cannot be filtered by {list(filters or ())}: {error}") from error


def _typed(name: str, column: str, operator: str, value: Any) -> tuple[str, str, Any]:
    """A condition whose set of values has the column's type, as Arrow cannot tell that of none."""
    if operator not in ("in", "not in"):
        return column, operator, value
    return column, operator, pa.array(list(value), SCHEMAS[name].field(column).type)


def check(name: str, found: pa.Schema, source: str) -> None:
    """Refuse another schema than that of `name` at this version.

    Raises:
        ValueError: If the schema or its version differs.
    """
    schema = SCHEMAS[name]
    version = (found.metadata or {}).get(b"mdzoo_schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ValueError(
            f"{source} has schema version {version}, this mdzoo reads version {SCHEMA_VERSION}; "
            "open it with the mdzoo that wrote it, or build the zoo again"
        )
    if not found.equals(schema):
        missing = [n for n in schema.names if n not in found.names]
        extra = [n for n in found.names if n not in schema.names]
        raise ValueError(
            f"{source} does not have the schema of table {name}: missing columns {missing}, unknown columns {extra}"
        )
