"""Typed settings: each declared once, with its type, bounds and words."""

from __future__ import annotations

import enum
import re
from typing import Annotated

import pydantic

from app.download.manager import Hours
from app.engine.protocol import Sampling
from app.plan.model import FlashAttention, KvCacheType, Objective

_ENDPOINT = re.compile(r"^[A-Za-z0-9.\-_]+:\d{1,5}$")


class Appearance(enum.StrEnum):
    """Light, dark, or as the system says."""

    SYSTEM = "system"
    LIGHT = "light"
    DARK = "dark"


class SplitMode(enum.StrEnum):
    """Who decides which layers go where."""

    AUTOMATIC = "automatic"
    EVEN = "even"
    BY_MEMORY = "by_memory"
    MANUAL = "manual"
    TENSOR = "tensor"
    """Not layers but the tensors of each layer are divided; experimental."""


class LoadMode(enum.StrEnum):
    """How the weights get into memory."""

    AUTOMATIC = "automatic"
    MAPPED = "mapped"
    READ = "read"

    def reads(self, on_devices: bool) -> bool:
        """True if the file is read; `on_devices` says that the model is wholly there."""
        return self is LoadMode.READ or (self is LoadMode.AUTOMATIC and on_devices)


class Overflow(enum.StrEnum):
    """What to do where a conversation no longer fits into the context."""

    STOP = "stop"
    DROP_OLDEST = "drop_oldest"


def _endpoint(value: str) -> str:
    if value.count(":") > 1:
        raise ValueError(f"“{value}” is an IPv6 address; llama.cpp's RPC speaks IPv4 only")
    if not _ENDPOINT.match(value) or not 0 < int(value.rsplit(":", 1)[1]) < 65_536:
        raise ValueError(f"“{value}” is not an address such as 192.168.1.20:50052")
    return value


class Settings(pydantic.BaseModel):
    """All settings. Devices are keyed by `hardware.Device.id`, never by an index."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    appearance: Appearance = pydantic.Field(
        default=Appearance.SYSTEM, title="Appearance", description="Light, dark, or as the system."
    )
    model_path: str | None = pydantic.Field(
        default=None, title="Model", description="The model file; none means the starter model."
    )
    context: int | None = pydantic.Field(
        default=None, ge=256, le=2**24, title="Context", description="Tokens; none means automatic."
    )
    kv_type_k: KvCacheType = pydantic.Field(
        default=KvCacheType.F16,
        title="K cache",
        description="Type of the K cache; q8_0 takes about half of f16.",
    )
    kv_type_v: KvCacheType = pydantic.Field(
        default=KvCacheType.F16,
        title="V cache",
        description="Type of the V cache; types other than f16, bf16 and f32 need flash attention.",
    )
    flash_attention: FlashAttention = pydantic.Field(
        default=FlashAttention.AUTO,
        title="Flash attention",
        description="Auto is on where the devices support it.",
    )
    micro_batch: int = pydantic.Field(
        default=512,
        ge=16,
        le=4096,
        title="Micro-batch",
        description="Tokens of a prompt computed at once: fewer take less memory and more time.",
    )
    objective: Objective = pydantic.Field(
        default=Objective.BALANCED,
        title="Objective",
        description="What an automatic split is best at, among those that fit.",
    )
    threads: int | None = pydantic.Field(
        default=None, ge=1, le=1024, title="Threads", description="None means one a core."
    )
    load_mode: LoadMode = pydantic.Field(
        default=LoadMode.AUTOMATIC,
        title="Loading",
        description="Map the file, or read it; automatic reads what goes wholly to devices.",
    )
    rpc_servers: tuple[Annotated[str, pydantic.AfterValidator(_endpoint)], ...] = pydantic.Field(
        default=(), title="RPC servers", description="Machines that lend devices, as host:port."
    )
    split_mode: SplitMode = pydantic.Field(
        default=SplitMode.AUTOMATIC,
        title="Split",
        description="Who decides which layers go where; tensor, experimental, divides each layer instead.",
    )
    device_order: tuple[str, ...] = pydantic.Field(
        default=(), title="Device order", description="Ids in the order of layers."
    )
    disabled_devices: tuple[str, ...] = pydantic.Field(
        default=(), title="Switched off", description="Ids of devices that hold no layers."
    )
    layers: dict[str, int] = pydantic.Field(
        default={}, title="Layers", description="Layers per device id, where split by hand."
    )
    locked_devices: tuple[str, ...] = pydantic.Field(
        default=(),
        title="Locked",
        description="Ids whose number of layers stays while others move.",
    )
    reserves: dict[str, Annotated[int, pydantic.Field(ge=0, le=2**40)]] = pydantic.Field(
        default={},
        title="Reserve",
        description="Bytes to keep free per device id; others by backend.",
    )
    system_prompt: str = pydantic.Field(
        default="", max_length=100_000, title="System prompt", description="Sent before each chat."
    )
    overflow: Overflow = pydantic.Field(
        default=Overflow.STOP,
        title="Full context",
        description="Stop, or leave the oldest turns out of the prompt; they stay in the chat.",
    )
    reply_reserve: int = pydantic.Field(
        default=1024, ge=0, le=2**20, title="Reply", description="Tokens kept free for the answer."
    )
    sampling: Sampling = pydantic.Field(
        default=Sampling(), title="Sampling", description="How the next token is chosen."
    )
    unload_after_min: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=10_080,
        title="Unload when idle",
        description="Minutes without a question after which the model leaves memory; none keeps it. "
        "The next question loads it again.",
    )
    snapshot_when_idle: bool = pydantic.Field(
        default=False,
        title="Keep the KV cache",
        description="Save the chat's KV cache before the model is unloaded for being idle, so that "
        "the next answer need not read the whole chat again.",
    )
    snapshot_limit_gb: int = pydantic.Field(
        default=40,
        ge=0,
        le=100_000,
        title="Room for KV caches",
        description="GB that saved KV caches may take on disk; the oldest make room.",
    )
    model_folders: tuple[str, ...] = pydantic.Field(
        default=(), title="Folders of models", description="Looked into beside the usual ones."
    )
    download_folders: tuple[str, ...] = pydantic.Field(
        default=(),
        title="Folders for downloads",
        description="The last one used comes first and takes the next download; none: the app's.",
    )
    download_limit: int | None = pydantic.Field(
        default=None, ge=1024, title="Download limit", description="Bytes/s; none means no limit."
    )
    download_hours: Hours | None = pydantic.Field(
        default=None, title="Download hours", description="When downloads run; none means always."
    )
