"""Asks every source at once; each fails alone and leaves a notice and its evidence."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pydantic

from app.hardware.merge import Sources, merge
from app.hardware.model import Device, EngineDevice, Evidence, HardwareReport, Notice
from app.hardware.probes import apple, children, engine_devices, nvml, sysfs, system
from app.hardware.probes.engine_devices import EngineAnswer
from app.hardware.probes.nvml import NvmlReport
from app.hardware.support import HIDING_VARIABLES

NVML_TIMEOUT_S = 10.0
ENGINE_TIMEOUT_S = 20.0
RPC_TIMEOUT_S = 6.0

_NO_PERMISSION, _NOT_LOADED, _NO_LIBRARY, _MISMATCH = 4, 9, 12, 18
"""Of nvmlReturn_t (nvml.h); only the child loads the binding."""
_NVML_NOTICES = {
    _MISMATCH: Notice(
        title="NVIDIA's driver and its library are of different versions.",
        hint="Restart the computer: the driver was updated while it ran.",
    ),
    _NO_PERMISSION: Notice(
        title="This user may not use NVIDIA's driver.",
        hint="Allow access to /dev/nvidia*, for example with the group `video`.",
    ),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _NvmlAnswer:
    report: NvmlReport
    notices: tuple[Notice, ...]
    evidence: Evidence


def detect(
    *,
    model_folder: Path,
    rpc_servers: Sequence[str] = (),
    own_pids: frozenset[int] = frozenset(),
    previous: HardwareReport | None = None,
    nvml_timeout_s: float = NVML_TIMEOUT_S,
    engine_timeout_s: float = ENGINE_TIMEOUT_S,
    rpc_timeout_s: float = RPC_TIMEOUT_S,
    sysfs_root: Path = Path("/sys"),
) -> HardwareReport:
    """Look at the machine. Takes a second or so, and never longer than the timeouts.

    Args:
        model_folder: Where models go; its disk is reported.
        rpc_servers: `host:port` of RPC servers, whose devices count as devices.
        own_pids: This app's engine processes; their GPU memory is not used by others.
        previous: The last report. An RPC server serves one client at a time, so those that
            `own_pids` are connected to are not asked; their devices come from here.
        nvml_timeout_s: How long NVML may take before it counts as hung.
        engine_timeout_s: How long the engine may take to list this machine's devices.
        rpc_timeout_s: How long each RPC server may take.
        sysfs_root: Where sysfs is mounted.
    """
    held = _held_devices(rpc_servers, own_pids, previous)
    free_servers = [server for server in rpc_servers if server not in {d.endpoint for d in held}]
    with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="detect") as pool:
        nvml_future = pool.submit(_ask_nvml, nvml_timeout_s)
        engine_future = pool.submit(
            engine_devices.ask_engine,
            free_servers,
            timeout_s=engine_timeout_s,
            rpc_timeout_s=rpc_timeout_s,
        )
        gpus = sysfs.find(sysfs_root)
        sysctl = apple.ask() if sys.platform == "darwin" else ""
        mac, disk = apple.parse(sysctl), system.disk(model_folder)
        nvidia, engine = nvml_future.result(), engine_future.result()
    engine = _with_held(engine, held, rpc_servers)
    sources = Sources(
        nvml=nvidia.report,
        sysfs=gpus,
        apple=mac,
        engine=engine.info,
        own_pids=own_pids,
        own_drm_bytes=sysfs.held_by(own_pids),
        visible={name: os.environ[name] for name in HIDING_VARIABLES if name in os.environ},
    )
    local = (("sysfs", sysfs.evidence(gpus)), ("sysctl", sysctl))
    return HardwareReport(
        devices=merge(sources),
        cpu=system.cpu(apple=mac),
        memory=system.memory(),
        disks=(disk,) if disk else (),
        engine=engine.info,
        system=system.describe(),
        notices=(*nvidia.notices, *engine.notices),
        evidence=(
            nvidia.evidence,
            *(Evidence(source=source, text=text) for source, text in local if text),
            *engine.evidence,
            *(Evidence(source="environment", text=f"{k}={v}") for k, v in sources.visible.items()),
        ),
    )


def _ask_nvml(timeout_s: float) -> _NvmlAnswer:
    try:
        (text,) = children.ask(nvml.MODULE, timeout_s=timeout_s)
        report = NvmlReport.model_validate_json(text)
    except children.ProbeError as error:
        if isinstance(error, children.NotStartedError):
            title = f"NVIDIA's driver was not asked for its cards: the probe {error}."
            hint = "Close other programs, then look again."
        elif error.hung:
            title = f"NVIDIA's driver hangs: {error}."
            hint = "Restart the computer; until then `nvidia-smi` hangs too."
        else:
            title = f"NVIDIA's driver crashed when asked for its cards: the probe {error}."
            hint = "Restart the computer, or install the driver again."
        text = "\n".join((*error.lines, str(error), error.errors)).strip()
        report, notices = NvmlReport(error=str(error)), [Notice(title=title, hint=hint)]
    except (ValueError, pydantic.ValidationError) as error:
        text, report = str(error), NvmlReport(error="unreadable answer")
        notices = [Notice(title="The answer of NVIDIA's driver is not readable.",
                          hint="Install the driver again.")]  # fmt: skip
    else:
        notices = _nvml_notices(report)
    return _NvmlAnswer(
        report=report, notices=tuple(notices), evidence=Evidence(source="nvml", text=text)
    )


def _nvml_notices(report: NvmlReport) -> list[Notice]:
    notices = [
        Notice(title=f"An NVIDIA card cannot be used: {words}.", hint="Restart the computer.")
        for words in report.unreadable
    ]
    notices += [
        Notice(
            title=f"The NVIDIA card at {bus} is in MIG mode and has no slice.",
            hint="Make one with `nvidia-smi mig -cgi`, or turn MIG off with `nvidia-smi -mig 0`.",
        )
        for bus in report.unsliced_bus_ids
    ]
    # Without library or driver, a card that sysfs shows says so itself.
    if report.error and report.error_code not in (_NOT_LOADED, _NO_LIBRARY):
        unknown = Notice(
            title=f"NVIDIA's driver does not work: {report.error}.",
            hint="Restart the computer, or install the driver again.",
        )
        notices.append(_NVML_NOTICES.get(report.error_code or 0, unknown))
    return notices


def _held_devices(
    servers: Sequence[str], own_pids: frozenset[int], previous: HardwareReport | None
) -> list[Device]:
    """The last report's devices of servers to which this app's engine is connected now."""
    if previous is None or not servers:
        return []
    connected: set[tuple[str, int]] = set()
    for pid in own_pids:
        with contextlib.suppress(psutil.Error, OSError):
            for connection in psutil.Process(pid).net_connections("tcp"):
                if connection.raddr:
                    host, port = connection.raddr
                    connected.add((host, port))
    held = {server for server in servers if connected & _addresses(server)}
    return [device for device in previous.devices if device.endpoint in held]


def _addresses(endpoint: str) -> set[tuple[str, int]]:
    host, _, port = endpoint.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        return {(str(address[0]), int(address[1])) for *_, address in found}
    return set()


def _with_held(
    answer: EngineAnswer, held: Sequence[Device], servers: Sequence[str]
) -> EngineAnswer:
    """The engine's list with the devices of held servers, all numbered as ggml will number them."""
    if not held:
        return answer
    remote = [d for d in answer.info.devices if d.backend == "rpc"]
    remote += [
        EngineDevice(
            name=device.support.engine_name or "",
            description=device.name,
            backend="rpc",
            kind="gpu",
            endpoint=device.endpoint,
            memory_total_bytes=device.memory_total_bytes,
            memory_free_bytes=device.memory_free_bytes,
        )
        for device in held
    ]
    order = list(servers)
    remote.sort(key=lambda d: order.index(d.endpoint) if d.endpoint in order else len(order))
    # ggml_backend_rpc_add_server (ggml-rpc.cpp) counts over all servers in the order they are added.
    named = [dataclasses.replace(d, name=f"RPC{index}") for index, d in enumerate(remote)]
    local = (d for d in answer.info.devices if d.backend != "rpc")
    info = dataclasses.replace(answer.info, devices=(*local, *named))
    return dataclasses.replace(answer, info=info)
