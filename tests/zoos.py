"""Zoos that are another one, changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pyarrow as pa

import zoo
from zoo.tables import Filters

Change = Callable[[str, pa.Table], pa.Table]


class Changed(zoo.Zoo):
    """A zoo whose tables are changed as they are read."""

    change: Change

    def arrow(
        self, name: str, columns: Sequence[str] | None = None, filters: Filters | None = None
    ) -> pa.Table:
        """The changed table, whole."""
        assert (columns, filters) == (None, None)
        return self.change(name, super().arrow(name))


def changed(opened: zoo.Zoo, change: Change) -> Changed:
    """The zoo, with `change(name of a table, the table)` instead of each table."""
    found = Changed(**{field.name: getattr(opened, field.name) for field in dataclasses.fields(opened)})
    object.__setattr__(found, "change", change)
    return found
