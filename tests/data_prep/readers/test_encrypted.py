"""Encrypted files are refused by name."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from configs.load import UserError
from tests.data_prep.readers.reading import read_documents


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    """Arrow ends the process where it is asked for an encrypted column."""

    class Keys(encryption.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key: bytes, name: str) -> bytes:
            return key

    table = pa.table({"text": ["one"]})
    factory = encryption.CryptoFactory(lambda _: Keys())
    for plain in (True, False):
        settings = encryption.EncryptionConfiguration(
            footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=plain
        )
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
        path = tmp_path / f"{plain}.parquet"
        with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)
        with pytest.raises(UserError, match="encrypted"):
            read_documents(path, type="parquet")
