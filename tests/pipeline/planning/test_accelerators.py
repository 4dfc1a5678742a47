"""The table of accelerators: complete, with sources, and consistent."""

import pytest

from configs.load import ConfigError
from pipeline.planning.accelerators import Accelerator, find_accelerator, known_accelerators

TABLE = known_accelerators()


@pytest.mark.parametrize("name", TABLE)
def test_every_figure_has_a_source_and_a_possible_value(name: str) -> None:
    found = TABLE[name]
    for figure in found.sources().values():
        assert figure.value > 0
        assert len(figure.source) > 5
    # Measured rates are below those of the datasheet, except for fp32, which has no peak here.
    for precision in ("bf16", "fp16"):
        if precision in found.matrix:
            assert found.matrix_flops(precision) < found.peak_flops
    assert found.matrix_flops("fp32") < min(
        found.matrix[precision].value * 1e12 for precision in found.matrix if precision != "fp32"
    )
    assert name.endswith(f"{found.memory_gb:g}gb")


def test_the_order_of_generations() -> None:
    def rate(name: str) -> float:
        found: Accelerator = find_accelerator(name)
        return max(figure.value for figure in found.matrix.values())

    assert rate("v100-32gb") < rate("a100-80gb") < rate("h100-80gb") < rate("b200-180gb")


def test_a_node_that_is_used_in_part_has_a_part_of_the_network() -> None:
    found = find_accelerator("h100-80gb")
    assert found.network_bytes_s(8) == pytest.approx(300e9)  # 75 % of 400
    assert found.network_bytes_s(2) == pytest.approx(75e9)
    assert found.network_bytes_s(16) == found.network_bytes_s(8)


def test_what_is_not_in_the_table_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--accelerator k80: .* use one of v100-32gb, a100"):
        find_accelerator("k80")
    with pytest.raises(ConfigError, match=r"no matrix units for bf16: .* one of fp16, fp32"):
        find_accelerator("v100-32gb").matrix_flops("bf16")
