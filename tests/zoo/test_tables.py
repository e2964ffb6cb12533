"""Tables: documented schemas, versions checked on read, rows checked on write."""

import pandas as pd
import pyarrow as pa
import pytest

from zoo import tables


def test_every_column_says_what_it_means():
    for name, schema in tables.SCHEMAS.items():
        assert schema.metadata[b"mdzoo_schema_version"] == str(tables.SCHEMA_VERSION).encode()
        for field in schema:
            assert field.metadata[b"meaning"], f"{name}.{field.name}"
        assert len(set(schema.names)) == len(schema.names)


def test_round_trip_keeps_the_documentation():
    table = tables.to_table("runs", [{"run_id": "a-0", "seed": 0, "test_error": 12.5}])
    back = tables.from_bytes("runs", tables.to_bytes(table), "it")
    assert back.equals(table, check_metadata=True)
    assert back.schema.field("test_error").metadata[b"unit"] == b"percent"
    assert back["status"].null_count == 1


def test_a_frame_becomes_a_table_with_nulls():
    frame = pd.DataFrame({"config_id": ["a", "b"], "gap": [1.5, float("nan")], "runs": [3, 4]})
    table = tables.from_frame("labels", frame)
    assert table.schema.equals(tables.SCHEMAS["labels"])
    assert table["gap"].to_pylist() == [1.5, None]
    assert table["label"].null_count == 2


@pytest.mark.parametrize(
    "write", [lambda n, r: tables.to_table(n, r), lambda n, r: tables.from_frame(n, pd.DataFrame(r))]
)
def test_rows_that_do_not_fit_are_refused(write):
    with pytest.raises(
        ValueError, match=r"table runs has no columns \['colour'\]; its columns are \['run_id'"
    ):
        write("runs", [{"colour": "red"}])
    with pytest.raises(ValueError, match="a row does not fit the schema of table runs"):
        write("runs", [{"seed": "one"}])


def test_other_versions_and_schemas_are_refused():
    table = tables.to_table("labels", [])
    old = table.replace_schema_metadata({"mdzoo_schema_version": "0"})
    with pytest.raises(
        ValueError, match=r"old\.parquet has schema version 0, this mdzoo reads version \d; open it with"
    ):
        tables.from_bytes("labels", tables.to_bytes(old), "old.parquet")
    with pytest.raises(ValueError, match=r"missing columns \['gap'\], unknown columns \[\]"):
        tables.check("labels", table.drop_columns(["gap"]).schema, "it")
    foreign = tables.to_bytes(pa.table({"x": [1]}))
    with pytest.raises(ValueError, match="has schema version none"):
        tables.from_bytes("labels", foreign, "it")
