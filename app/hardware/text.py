"""A hardware report as text for a terminal and as JSON for programs."""

from __future__ import annotations

import dataclasses

from app import units
from app.hardware.model import Device, HardwareReport


def describe(report: HardwareReport) -> str:
    """Devices, then the rest of the machine, then what a person should know."""
    lines = [line for device in report.devices for line in _device(device)]
    if not report.devices:
        lines.append("No GPU found; models run on the CPU.")
    cpu, memory = report.cpu, report.memory
    lines.append(
        f"CPU      {cpu.name}, {cpu.physical_cores} cores ({', '.join(cpu.instruction_sets)})"
    )
    lines.append(
        f"RAM      {units.format_memory(memory.total_bytes)}, "
        f"{units.format_memory(memory.available_bytes)} available"
    )
    lines += [
        f"Disk     {units.format_file_size(disk.free_bytes)} free at {disk.folder}"
        for disk in report.disks
    ]
    engine = report.engine
    lines.append(
        f"Engine   {engine.error or f'llama-cpp-python {engine.version}: ' + ', '.join(engine.backends)}"
    )
    lines += [f"Note     {notice.title} {notice.hint}".rstrip() for notice in report.notices]
    return "\n".join(lines)


def diagnostics(report: HardwareReport) -> str:
    """The report and, unprocessed, what each source said; to be copied into a question."""
    parts = [f"System   {report.system}", describe(report)]
    parts += [f"--- {evidence.source}\n{evidence.text.strip()}" for evidence in report.evidence]
    return "\n\n".join(parts)


def _device(device: Device) -> list[str]:
    facts = [device.name]
    if device.memory_total_bytes is not None:
        free = device.memory_free_bytes
        shown = f"{units.format_memory(free)} free of " if free is not None else ""
        facts.append(f"{shown}{units.format_memory(device.memory_total_bytes)}")
    if device.compute_capability:
        facts.append(f"compute capability {device.compute_capability}")
    if device.pcie.width:
        facts.append(
            f"PCIe {device.pcie.generation}.0 x{device.pcie.width} (max x{device.pcie.max_width})"
        )
    if device.temperature_c is not None:
        facts.append(f"{device.temperature_c:.0f} °C")
    if device.power_w is not None:
        facts.append(f"{device.power_w:.0f} W")
    support = device.support
    facts.append(f"used as {support.engine_name}" if support.engine_name else "not usable")
    lines = [f"{device.label:8} {', '.join(facts)}"]
    if support.reason:
        lines.append(f"         {support.reason} {support.remedy}".rstrip())
    return lines


def to_json(report: HardwareReport) -> dict[str, object]:
    """All of the report; names carry their units."""
    values = dataclasses.asdict(report)
    values.pop("evidence")
    return values
