"""Fixtures of several modules."""

import pytest

from pipeline.run.config import TrainConfig
from tests.pipeline.finetuning.finetune_run import make_pretrained


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished pretraining run to fine-tune from."""
    return make_pretrained(tmp_path_factory.mktemp("pretrained"))
