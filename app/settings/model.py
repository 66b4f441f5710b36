"""Typed settings: each declared once, with its type, bounds and words."""

from __future__ import annotations

import enum
import json
import re
from typing import Annotated

import pydantic

from app.download.manager import Hours
from app.engine.protocol import Sampling
from app.plan.model import FlashAttention, KvCacheType, Objective
from app.settings.shown import Control, Section, shown

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
    SUMMARISE = "summarise"
    ENLARGE = "enlarge"


OVERFLOW_TITLES = {
    Overflow.STOP: "Stop",
    Overflow.DROP_OLDEST: "Leave out the oldest turns",
    Overflow.SUMMARISE: "Summarise the oldest turns",
    Overflow.ENLARGE: "Enlarge the context",
}
"""What happens then, for a menu."""
OVERFLOW_WORDS = {
    Overflow.STOP: "your question is kept for you to send again",
    Overflow.DROP_OLDEST: "the oldest turns are left out of the prompt, and stay in the chat",
    Overflow.SUMMARISE: "the model summarises the oldest turns, which stay in the chat",
    Overflow.ENLARGE: "the model is loaded again with a longer context, if one fits",
}
"""The same as the end of a sentence."""


def _endpoint(value: str) -> str:
    shown = value.encode(errors="replace").decode()
    if value.count(":") > 1:
        raise ValueError(f"“{shown}” is an IPv6 address; llama.cpp's RPC speaks IPv4 only")
    if not _ENDPOINT.match(value) or not 0 < int(value.rsplit(":", 1)[1]) < 65_536:
        raise ValueError(f"“{shown}” is not an address such as 192.168.1.20:50052")
    return value


def _options(value: object) -> object:
    """Sampling options, checked one by one; a whole `Sampling` stands for what was set in it."""
    if isinstance(value, Sampling):
        value = value.model_dump(exclude_unset=True)
    if not isinstance(value, dict):
        return value
    checked = Sampling.model_validate(value).model_dump(mode="json")
    try:
        json.dumps(checked, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("A text with half a character is not possible") from None
    return {name: checked[name] for name in value}


SamplingOptions = Annotated[dict[str, pydantic.JsonValue], pydantic.BeforeValidator(_options)]
"""Options of `Sampling` that a person set; all others are as the model's makers advise."""
_SPLIT = shown(Section.SPLIT, at_load=True)


class Settings(pydantic.BaseModel):
    """All settings. Devices are keyed by `hardware.Device.id`, never by an index."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    appearance: Appearance = pydantic.Field(
        default=Appearance.SYSTEM,
        title="Appearance",
        description="Light, dark, or as the system.",
        json_schema_extra=shown(Section.APPEARANCE),
    )
    high_contrast: bool = pydantic.Field(
        default=False,
        title="High contrast",
        description="Stronger edges around fields, buttons and cards.",
        json_schema_extra=shown(Section.APPEARANCE),
    )
    model_path: str | None = pydantic.Field(
        default=None,
        title="Model",
        description="The model file; none means the starter model.",
        json_schema_extra=shown(Section.SPLIT, empty="Starter model"),
    )
    context: int | None = pydantic.Field(
        default=None,
        ge=256,
        le=2**24,
        title="Context",
        description="How much of a conversation the model sees; automatic takes what fits.",
        json_schema_extra=shown(Section.ENGINE, unit="tokens", at_load=True),
    )
    kv_type_k: KvCacheType = pydantic.Field(
        default=KvCacheType.F16,
        title="K cache",
        description="Type of the K cache; q8_0 takes about half of f16.",
        json_schema_extra=shown(Section.ENGINE, at_load=True),
    )
    kv_type_v: KvCacheType = pydantic.Field(
        default=KvCacheType.F16,
        title="V cache",
        description="Type of the V cache; types other than f16, bf16 and f32 need flash attention.",
        json_schema_extra=shown(Section.ENGINE, at_load=True),
    )
    flash_attention: FlashAttention = pydantic.Field(
        default=FlashAttention.AUTO,
        title="Flash attention",
        description="Auto is on where the devices support it.",
        json_schema_extra=shown(Section.ENGINE, at_load=True),
    )
    micro_batch: int = pydantic.Field(
        default=512,
        ge=16,
        le=4096,
        title="Micro-batch",
        description="Tokens of a prompt computed at once: fewer take less memory and more time.",
        json_schema_extra=shown(Section.ENGINE, unit="tokens", at_load=True),
    )
    objective: Objective = pydantic.Field(
        default=Objective.BALANCED,
        title="Objective",
        description="What an automatic split is best at: most room left, fewest devices, speed, longest context.",
        json_schema_extra=shown(Section.ENGINE, at_load=True),
    )
    threads: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=1024,
        title="Threads",
        description="Threads that compute on the processor; automatic takes one a core.",
        json_schema_extra=shown(Section.ENGINE, at_load=True),
    )
    load_mode: LoadMode = pydantic.Field(
        default=LoadMode.AUTOMATIC,
        title="Loading",
        description="Map the file, or read it; automatic reads what goes wholly to devices.",
        json_schema_extra=shown(Section.ENGINE, at_load=True),
    )
    rpc_servers: tuple[Annotated[str, pydantic.AfterValidator(_endpoint)], ...] = pydantic.Field(
        default=(),
        title="RPC servers",
        description="Machines that lend devices, as host:port. Use them in trusted networks only:"
        " their protocol has no password.",
        json_schema_extra=shown(Section.RPC, at_load=True),
    )
    split_mode: SplitMode = pydantic.Field(
        default=SplitMode.AUTOMATIC,
        title="Split",
        description="Who decides which layers go where; tensor, experimental, divides each layer instead.",
        json_schema_extra=_SPLIT,
    )
    device_order: tuple[str, ...] = pydantic.Field(
        default=(),
        title="Device order",
        description="Ids in the order of layers.",
        json_schema_extra=_SPLIT,
    )
    disabled_devices: tuple[str, ...] = pydantic.Field(
        default=(),
        title="Switched off",
        description="Ids of devices that hold no layers.",
        json_schema_extra=_SPLIT,
    )
    layers: dict[str, int] = pydantic.Field(
        default={},
        title="Layers",
        description="Layers per device id, where split by hand.",
        json_schema_extra=_SPLIT,
    )
    locked_devices: tuple[str, ...] = pydantic.Field(
        default=(),
        title="Locked",
        description="Ids whose number of layers stays while others move.",
        json_schema_extra=_SPLIT,
    )
    reserves: dict[str, Annotated[int, pydantic.Field(ge=0, le=2**40)]] = pydantic.Field(
        default={},
        title="Reserve",
        description="Bytes to keep free per device id; others by backend.",
        json_schema_extra=_SPLIT,
    )
    system_prompt: str = pydantic.Field(
        default="",
        max_length=100_000,
        title="System prompt",
        description="Sent before each chat.",
        json_schema_extra=shown(Section.CHAT, control=Control.TEXT),
    )
    overflow: Overflow = pydantic.Field(
        default=Overflow.STOP,
        title="Full context",
        description="Stop, leave the oldest turns out of the prompt, let the model summarise them"
        " (all stay in the chat), or load again with a longer context.",
        json_schema_extra=shown(
            Section.CHAT, words={o.value: words for o, words in OVERFLOW_TITLES.items()}
        ),
    )
    reply_reserve: int = pydantic.Field(
        default=1024,
        ge=0,
        le=2**20,
        title="Room for the reply",
        description="Kept free in the context for the answer.",
        json_schema_extra=shown(Section.CHAT, unit="tokens"),
    )
    sampling: SamplingOptions = pydantic.Field(
        default={}, title="Sampling", description="How the next token is chosen."
    )
    unload_after_min: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=10_080,
        title="Unload when idle",
        description="Without a question for so long, the model leaves memory. "
        "The next question loads it again.",
        json_schema_extra=shown(Section.ENGINE, unit="minutes", empty="Never"),
    )
    snapshot_when_idle: bool = pydantic.Field(
        default=False,
        title="Keep the KV cache",
        description="Save the chat's KV cache before the model is unloaded for being idle, so that "
        "the next answer need not read the whole chat again.",
        json_schema_extra=shown(Section.ENGINE),
    )
    snapshot_limit_gb: int = pydantic.Field(
        default=40,
        ge=0,
        le=100_000,
        title="Room for KV caches",
        description="What saved KV caches may take on disk together; the oldest make room.",
        json_schema_extra=shown(Section.ENGINE, unit="GB"),
    )
    model_folders: tuple[str, ...] = pydantic.Field(
        default=(),
        title="Folders of models",
        description="Looked into beside the usual ones.",
        json_schema_extra=shown(Section.MODELS, control=Control.FOLDERS),
    )
    download_folders: tuple[str, ...] = pydantic.Field(
        default=(),
        title="Folders for downloads",
        description="The last one used comes first and takes the next download; none: the app's.",
        json_schema_extra=shown(Section.DOWNLOADS, control=Control.FOLDERS),
    )
    download_limit: int | None = pydantic.Field(
        default=None,
        ge=1000,
        le=10**12,
        title="Download limit",
        description="The most that downloads take together.",
        json_schema_extra=shown(Section.DOWNLOADS, unit="MB/s", scale=1_000_000, empty="No limit"),
    )
    download_hours: Hours | None = pydantic.Field(
        default=None,
        title="Download hours",
        description="When downloads run, by this machine's clock.",
        json_schema_extra=shown(Section.DOWNLOADS, control=Control.HOURS, empty="Always"),
    )
