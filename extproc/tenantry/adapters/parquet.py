"""Usage tables as Parquet files; the package pyarrow (extra `parquet`) is loaded here and only when asked for."""

from pathlib import Path

from tenantry.core.billing.statement import Column, UsageTable
from tenantry.core.errors import TenantryError

DECIMAL_DIGITS = 38
"""Of a 128-bit decimal; a million GPUs' nanoseconds of a thousand years have 26."""


class ParquetError(TenantryError):
    """Parquet cannot be written here; the message says what is missing."""


def write_parquet(table: UsageTable, path: Path) -> None:
    """Write a table to a file; raise ParquetError without pyarrow, OSError where the file cannot be written.

    Text, whole numbers of 64 bits (`kv_byte_ms`: decimal, as sums outgrow them), decimals with the column's digits,
    and moments in UTC to the second.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415  # 170 MB that nothing else needs
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise ParquetError(
            "Parquet needs the package pyarrow: pip install 'tenantry[parquet]', or ask for --format csv"
        ) from None

    def type_of(column: Column) -> object:
        if column.kind == "decimal":
            return pa.decimal128(DECIMAL_DIGITS, column.digits)
        if column.kind == "whole":
            return pa.decimal128(DECIMAL_DIGITS, 0) if column.name == "kv_byte_ms" else pa.int64()
        return pa.timestamp("s", tz="UTC") if column.kind == "time" else pa.string()

    columns = [
        pa.array([row[index] for row in table.rows], type=type_of(column)) for index, column in enumerate(table.columns)
    ]
    made = pa.Table.from_arrays(columns, names=[column.name for column in table.columns])
    parquet.write_table(made, path)
