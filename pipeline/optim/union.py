"""The optimizers that a run can choose, in one union; a new one is its own file and one entry."""

from typing import Annotated

from pydantic import Field

from pipeline.optim.adamw import AdamWConfig
from pipeline.optim.lamb import LambConfig
from pipeline.optim.muon import MuonConfig
from pipeline.optim.stable_adamw import StableAdamWConfig

OptimizerConfig = Annotated[
    AdamWConfig | LambConfig | StableAdamWConfig | MuonConfig, Field(discriminator="type")
]
