"""The engine's own device list, asked in a child: a bad driver hangs or kills whoever asks.

Run as a module, with RPC servers (`host:port`) as arguments, it prints one JSON value a line:
the engine with its local devices, then for each server its name before it is asked and its
devices after. So the parent knows whom to blame for a hang or a crash.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import pydantic

from app.hardware.model import EngineDevice, EngineInfo, Evidence, Notice
from app.hardware.probes import children

MODULE = "app.hardware.probes.engine_devices"
REBUILD = "Run `make engine` to build it again."


class ListedDevice(pydantic.BaseModel):
    """One device, as `app.ggml.RegisteredDevice` without its handle."""

    name: str
    description: str
    backend: str
    kind: str
    pci_bus_id: str | None
    endpoint: str | None
    memory_total_bytes: int
    memory_free_bytes: int


class EngineLine(pydantic.BaseModel):
    """The first line: the engine and this machine's devices, or why there is no engine."""

    version: str = ""
    backends: tuple[str, ...] = ()
    devices: tuple[ListedDevice, ...] = ()
    error: str = ""


class ServerLine(pydantic.BaseModel):
    """A later line: `answered` is None before the server is asked, `problem` says why it cannot be used."""

    endpoint: str
    answered: bool | None = None
    problem: str = ""
    devices: tuple[ListedDevice, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineAnswer:
    """What the engine said, RPC servers included, and whom it could not ask."""

    info: EngineInfo
    notices: tuple[Notice, ...]
    evidence: tuple[Evidence, ...]


# --- in the parent ----------------------------------------------------------


def ask_engine(
    rpc_servers: Sequence[str], *, timeout_s: float, rpc_timeout_s: float
) -> EngineAnswer:
    """The engine's devices, those of RPC servers in the order given.

    A server at which the child hangs or dies is left out, and all others are asked again: ggml
    numbers the devices of all servers together, so the names hold only for one complete run.
    """
    servers = list(dict.fromkeys(rpc_servers))
    notices: list[Notice] = []
    evidence: list[Evidence] = []
    while True:
        failed, errors = "", ""
        try:
            lines = children.ask(
                MODULE, *servers, timeout_s=timeout_s, next_timeout_s=rpc_timeout_s
            )
        except children.ProbeError as error:
            lines, failed, errors = list(error.lines), str(error), error.errors
        text = "\n".join([*lines, *filter(None, (failed, errors))])
        evidence.append(Evidence(source="engine", text=text))
        info, answers = _parse(lines, failed, errors)
        blamed = [a.endpoint for a in answers.values() if a.answered is None]
        if info.error or not (failed and blamed):
            break
        notices.append(_silent(blamed[0], f"was asked for its devices: {failed}"))
        servers.remove(blamed[0])
    notices += [_unusable(a) for a in answers.values() if a.answered is False]
    if info.error:
        notices = [Notice(title=info.error, hint=REBUILD)]
    listed = [d for a in answers.values() for d in a.devices]
    info = dataclasses.replace(info, devices=(*info.devices, *map(_device, listed)))
    return EngineAnswer(info=info, notices=tuple(notices), evidence=tuple(evidence))


def _parse(
    lines: Sequence[str], failed: str, errors: str
) -> tuple[EngineInfo, dict[str, ServerLine]]:
    last = errors.splitlines()[-1:] or [""]
    if not lines:
        reason = f"The engine cannot list its devices: {failed or 'it said nothing'}."
        return EngineInfo(error=f"{reason} {last[0]}".rstrip()), {}
    try:
        engine = EngineLine.model_validate_json(lines[0])
        servers = [ServerLine.model_validate_json(line) for line in lines[1:]]
    except pydantic.ValidationError as error:
        return EngineInfo(error=f"The engine's device list is not readable: {error.title}."), {}
    info = EngineInfo(
        version=engine.version or None,
        backends=engine.backends,
        devices=tuple(map(_device, engine.devices)),
        error=engine.error,
    )
    return info, {server.endpoint: server for server in servers}


def _device(listed: ListedDevice) -> EngineDevice:
    return EngineDevice(**listed.model_dump())


def _unusable(server: ServerLine) -> Notice:
    problem = server.problem or f"no RPC server answers at {server.endpoint}"
    return Notice(
        title=f"{problem[0].upper()}{problem[1:]}.",
        hint="Start it there, or leave it out of --rpc or of the RPC servers in the settings.",
    )


def _silent(endpoint: str, detail: str) -> Notice:
    return Notice(
        title=f"The RPC server at {endpoint} is left out; the engine failed when it {detail}.",
        hint="It serves one program at a time and must have the engine's version; start it again.",
    )


# --- in the child -----------------------------------------------------------


def main() -> None:
    """Print the list."""
    output = children.private_stdout()
    children.exit_with_parent()

    def say(line: pydantic.BaseModel) -> None:
        print(line.model_dump_json(), file=output, flush=True)

    try:
        from app import ggml

        listed = ggml.devices()
        say(
            EngineLine(
                version=ggml.engine_version(),
                backends=ggml.backends(),
                devices=tuple(_listed(device) for device in listed),
            )
        )
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "llama_cpp"
        say(EngineLine(error="The engine is not installed." if missing else _broken(error)))
        return
    except (OSError, RuntimeError, AttributeError) as error:  # as llama_cpp's loader raises them
        say(EngineLine(error=_broken(error)))
        return
    count = len(listed)
    for endpoint in sys.argv[1:]:
        say(ServerLine(endpoint=endpoint))
        answered, problem = False, ""
        try:
            # ggml itself ends the process where something else answers, and waits for ever for one that hangs.
            ggml.check_rpc_server(endpoint)
            answered = ggml.add_rpc_server(endpoint)
        except ggml.RpcError as error:
            problem = str(error)
        devices = ggml.devices(count)
        count += len(devices)
        say(
            ServerLine(
                endpoint=endpoint,
                answered=answered,
                problem=problem,
                devices=tuple(_listed(device) for device in devices),
            )
        )


def _listed(device: object) -> ListedDevice:
    return ListedDevice.model_validate(device, from_attributes=True)


def _broken(error: Exception) -> str:
    return f"The engine's libraries do not load: {str(error).rstrip('.')}."


if __name__ == "__main__":
    main()
