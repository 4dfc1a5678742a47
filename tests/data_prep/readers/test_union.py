"""The union of the readers' configs: what makes a format one file and one entry."""

from typing import get_args

import pytest
from pydantic import ValidationError

from data_prep.readers import ReaderConfig
from data_prep.readers.reader import FilesConfig
from tests.data_prep.readers.reading import reader_config

CONFIGS: tuple[type[FilesConfig], ...] = get_args(get_args(ReaderConfig)[0])


def test_all_readers_share_the_base_config_and_have_different_types() -> None:
    assert len(CONFIGS) >= 7
    assert all(issubclass(config, FilesConfig) for config in CONFIGS)
    types = [name for c in CONFIGS for name in get_args(c.model_fields["type"].annotation)]
    assert types
    assert len(set(types)) == len(types)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_type_selects_the_reader(config: type[FilesConfig]) -> None:
    for name in get_args(config.model_fields["type"].annotation):
        chosen = reader_config({"type": name, "files": ["a"]})
        assert type(chosen) is config
        reader = chosen.build()
        assert callable(reader.spans)
        assert callable(reader.read)
        with pytest.raises(ValidationError, match="files"):
            reader_config({"type": name, "files": []})
