from __future__ import annotations

import pytest

from app.errors import AppError
from app.hardware import gpu_table
from app.units import GIB


def names(text: str) -> list[str]:
    return [gpu.name for gpu in gpu_table.parse(text)]


def test_sizes_and_names_with_counts_in_their_order() -> None:
    assert [gpu.memory_bytes for gpu in gpu_table.parse("24,24,32,80")] == [
        24 * GIB,
        24 * GIB,
        32 * GIB,
        80 * GIB,
    ]
    assert names("2x RTX 3090 + 4090, 48") == ["RTX 3090", "RTX 3090", "RTX 4090", "48 GiB"]
    assert names("nvidia geforce rtx 3090") == ["RTX 3090"]
    assert names("2x H100 80GB") == ["H100 SXM"] * 2
    (card,) = gpu_table.parse("RTX 3090")
    assert card.memory_bytes < 24 * GIB, "a driver reports less than the box says"
    assert card.bandwidth_bytes_per_s == 936e9


@pytest.mark.parametrize(
    "text", ["", "RTX 9999", "0", "-24", "0x RTX 3090", "100x 24", "24,,24", "A100"]
)
def test_what_is_no_gpu_is_said_with_a_way_out(text: str) -> None:
    with pytest.raises(AppError) as caught:
        gpu_table.parse(text)
    assert caught.value.hint


def test_a_name_that_could_be_two_cards_names_both() -> None:
    with pytest.raises(AppError, match=r"A100 SXM 80GB.*A100 40GB"):
        gpu_table.parse("A100")


def test_a_card_is_found_by_its_whole_name() -> None:
    found = gpu_table.find("NVIDIA GeForce RTX 3090")
    assert found is not None
    assert (found.name, found.bandwidth_bytes_per_s) == ("RTX 3090", 936e9)
    titanium = gpu_table.find("NVIDIA GeForce RTX 3090 Ti")
    assert titanium is not None
    assert titanium.name == "RTX 3090 Ti"
    assert gpu_table.find("127.0.0.1:50052") is None
