from __future__ import annotations

import pytest

from app.errors import AppError
from app.hardware import gpu_table
from app.units import GIB, MIB


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


@pytest.mark.parametrize(
    "text", ["8xRTX3090", "8 x 3090", "rtx3090 x8", "3090x8", "8× RTX 3090 24GB"]
)
def test_a_count_stands_before_or_after(text: str) -> None:
    assert names(text) == ["RTX 3090"] * 8


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("4090", "RTX 4090"),
        ("3090 Ti", "RTX 3090 Ti"),
        ("RTX 6000 Pro", "RTX PRO 6000 Blackwell"),
        ("RTX PRO 6000 Max-Q", "RTX PRO 6000 Blackwell"),
        ("6000 Ada", "RTX 6000 Ada"),
        ("RTX A6000", "RTX A6000"),
        ("A100 40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
        ("H100 SXM", "H100 SXM"),
        ("H100 NVL 94GB", "H100 NVL"),
        ("B200", "B200"),
        ("3060", "RTX 3060 12GB"),
        ("7900 XTX", "RX 7900 XTX"),
        ("MI300X", "MI300X"),
        ("M3 Ultra", "Apple M3 Ultra"),
        ("DGX Spark", "DGX Spark GB10"),
        ("Ryzen AI Max+ 395", "Strix Halo (Ryzen AI Max+ 395)"),
    ],
)
def test_names_as_people_type_them(text: str, name: str) -> None:
    assert names(text) == [name]


def test_of_cards_of_one_size_the_slower_is_planned() -> None:
    assert names("2x H100 80GB") == ["H100 PCIe"] * 2
    assert names("A100 80GB") == ["A100 PCIe 80GB"]


def test_a_card_of_two_devices_is_both() -> None:
    cards = gpu_table.parse("2x MI250X")
    assert len(cards) == 4
    assert {card.nominal_gib for card in cards} == {64}


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-24", "24,,24", "RTX", "RTX 9999", "GB200", "A100", "Super 16GB"),
        *("0x RTX 3090", "65x 24", "100x 24", "3090 x65", "2x 3090 x2"),
    ],
)
def test_what_is_no_gpu_is_said_with_a_way_out(text: str) -> None:
    with pytest.raises(AppError) as caught:
        gpu_table.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "24,,24", "RTX 3090,"])
def test_a_place_without_a_gpu_is_named_as_such(text: str) -> None:
    with pytest.raises(AppError, match="has a place without a GPU"):
        gpu_table.parse(text)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("A100", r"A100 SXM 80GB, A100 PCIe 80GB, A100 40GB"),
        ("H100", r"H100 SXM, H100 PCIe, H100 NVL"),
        ("RTX 6000", r"RTX PRO 6000 Blackwell, RTX 6000 Ada"),
        ("4060 Ti 8GB", r"RTX 4060 Ti 16GB \(16 GiB\)"),
        ("M3 Ultra 256GB", r"Apple M3 Ultra \(512 GiB\)"),
        ("RTX 3070 Ti", r"RTX 3070 \(8 GiB\)"),
        ("Stix Halo", r"Strix Halo"),
    ],
)
def test_a_name_of_several_cards_or_of_none_brings_the_near_ones(text: str, near: str) -> None:
    with pytest.raises(AppError, match=near):
        gpu_table.parse(text)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti"),
        ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti 16GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
        ("NVIDIA GB10", "DGX Spark GB10"),
        ("Tesla T4", "T4"),
        ("AMD Radeon RX 7900 XTX (RADV NAVI31)", "RX 7900 XTX"),
        ("AMD Instinct MI60 / MI50", "MI50 32GB"),
        ("AMD Instinct MI250X", "MI250X GCD"),
        ("AMD Instinct MI300X VF", "MI300X"),
        ("Radeon 8060S Graphics", "Strix Halo (Ryzen AI Max+ 395)"),
        ("AMD Radeon Graphics (RADV GFX1151)", "Strix Halo (Ryzen AI Max+ 395)"),
        ("Intel(R) Arc(tm) B580 Graphics (BMG G21)", "Arc B580"),
        ("Apple M3 Ultra", "Apple M3 Ultra"),
    ],
)
def test_a_card_is_found_by_the_name_that_a_driver_reports(driver: str, name: str) -> None:
    found = gpu_table.find(driver)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "driver",
    [
        *("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA L40", "NVIDIA GB200", "Quadro RTX 6000"),
        *("AMD Radeon Graphics", "llvmpipe (LLVM 15.0.7, 256 bits)", "127.0.0.1:50052", ""),
    ],
)
def test_another_device_is_not_taken_for_one_of_the_table(driver: str) -> None:
    assert gpu_table.find(driver) is None


def test_memory_is_what_a_program_is_given_and_says_where_that_was_read() -> None:
    (card,) = gpu_table.parse("RTX 3090")
    assert (card.memory_bytes, card.nominal_gib) == (24_121 * MIB, 24)
    assert card.bandwidth_bytes_per_s == 936e9
    assert "llama.cpp" in card.sources.memory
    assert "llmfit" in card.sources.bandwidth
    assert card.sources.link
    (apple,) = gpu_table.parse("M2 Ultra")
    assert apple.memory_bytes == apple.nominal_gib * GIB * 0.75


def test_each_gpu_is_found_by_its_own_name_and_has_a_source_for_each_value() -> None:
    known = gpu_table.known()
    assert len({gpu.name for gpu in known}) == len(known) >= 72
    for gpu in known:
        assert {*names(gpu.name)} == {gpu.name}
        assert gpu_table.find(gpu.name) == gpu
        assert all((gpu.sources.memory, gpu.sources.bandwidth, gpu.sources.link, gpu.link))
        shared = gpu.name.startswith(("Apple", "Strix", "DGX"))
        least = 0.45 if shared else 0.9
        assert least < gpu.memory_bytes / (gpu.nominal_gib * GIB) < 1, gpu.name
