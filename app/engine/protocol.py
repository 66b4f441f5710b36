"""What the app and the engine's worker say to each other: one JSON object a line.

Commands go to the worker's stdin, messages come from its private duplicate of fd 1.
Both are discriminated unions on `type`; a line that is none of them is a protocol error.
"""

from __future__ import annotations

import enum
import json
from typing import Annotated, Literal

import pydantic

from app.engine.sampling import Sampling as Sampling


class _Line(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class PartKind(enum.StrEnum):
    """What a part of an answer is."""

    TEXT = "text"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"


class ToolCall(_Line):
    """The model wants a tool to be used."""

    name: str
    arguments: dict[str, pydantic.JsonValue]


class ChatMessage(_Line):
    """One message as the chat template sees it; templates keep or drop the reasoning as they like."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    summary: bool = False
    """True for the turn that stands for older ones."""


# --- commands ---------------------------------------------------------------


class Load(_Line):
    """Load a model. Devices are named as the engine lists them, RPC servers registered first, in order."""

    type: Literal["load"] = "load"
    model_path: str
    devices: tuple[str, ...] = ()
    rpc_servers: tuple[str, ...] = ()
    gpu_layers: int = 0
    tensor_split: tuple[int, ...] = ()
    """Layers for each device, or parts of each tensor."""
    split_mode: Literal["layer", "tensor"] = "layer"
    context: int = pydantic.Field(gt=0)
    batch: int = 2048
    micro_batch: int = 512
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    flash_attention: Literal["auto", "on", "off"] = "auto"
    tensor_overrides: tuple[tuple[str, str], ...] = ()
    """Regular expressions of tensor names, each with the device (or `CPU`) that holds them."""
    op_offload: bool = True
    """Batches of layers in main memory are computed on the first device, which needs room for their weights."""
    threads: int | None = None
    load_mode: Literal["mapped", "read"] = "mapped"
    """Mapped files share memory with the system's cache; models that are wholly on devices load faster read."""
    use_extra_buffers: bool = True
    self_test: bool = True
    dry_run: bool = False
    """Allocate nothing: only find out what each device would hold."""
    environment: dict[str, str] = {}
    """What the worker is started with, so that devices which are not of the load are hidden from it."""
    bus_ids: dict[str, str] = {}
    """PCI bus ids by device, of those whose names change where others are hidden."""


class Generate(_Line):
    """Answer a conversation. Messages that follow (`Prefilled`, ...) carry the same `turn`."""

    type: Literal["generate"] = "generate"
    turn: int
    messages: tuple[ChatMessage, ...]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    tools: tuple[dict[str, pydantic.JsonValue], ...] = ()
    """What the template is told of tools, each as a JSON schema of a function."""
    overflow: Literal["stop", "drop_oldest", "summarise"] = "stop"
    """Where prompt and reserve do not fit, or the answer reaches the end of the context: fail or end,
    leave out the oldest whole turns after the first, or put a summary in their place."""
    reserve: int = pydantic.Field(default=0, ge=0)
    """Tokens to keep free for the answer."""
    continue_last: bool = False
    """The last message is a partial answer of the assistant; go on from its end."""


class Cancel(_Line):
    """Stop the running turn, or the running load."""

    type: Literal["cancel"] = "cancel"


class Snapshot(_Line):
    """Write the KV cache to a file, read it from there, or only tell how large it would be."""

    type: Literal["snapshot"] = "snapshot"
    action: Literal["measure", "save", "restore"]
    request: int
    path: str = ""


class Ping(_Line):
    """Ask whether `turn` still runs; answered even while it does."""

    type: Literal["ping"] = "ping"
    turn: int


class Shutdown(_Line):
    """End the process."""

    type: Literal["shutdown"] = "shutdown"


Command = Annotated[
    Load | Generate | Cancel | Snapshot | Ping | Shutdown,
    pydantic.Field(discriminator="type"),
]


# --- messages ---------------------------------------------------------------


class Hello(_Line):
    """First message: the worker runs."""

    type: Literal["hello"] = "hello"
    pid: int
    engine_version: str
    backends: tuple[str, ...]


LoadStage = Literal["reading", "copying", "allocating", "warming_up"]


class LoadProgressed(_Line):
    """A stage of loading, and where in it: what is not known is None.

    `reading` the files, to memory or at once to the devices; `copying` from mapped files to the
    devices; `allocating` KV cache and compute buffers; `warming_up`.

    `done_bytes` of `total_bytes` were read, lately at `bytes_per_s`; `fraction` of the stage is done.
    `shard` of `shards` is read now. `device` is filled now, or was allocated: its number of `devices`
    in the load's order, 0 for main memory.
    """

    type: Literal["load_progressed"] = "load_progressed"
    stage: LoadStage
    fraction: float | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: float | None = None
    shard: int | None = None
    shards: int = 1
    part: Literal["kv_cache", "compute"] | None = None
    device: int | None = None
    devices: int = 0


class DeviceMemory(_Line):
    """What llama.cpp says that it allocated on one device (`CPU` for the host), in bytes.

    `first_layer` and `last_layer` come from its log; None if the device holds none.
    """

    device: str
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    layer_count: int = 0
    first_layer: int | None = None
    last_layer: int | None = None

    @property
    def model_bytes(self) -> int:
        """Weights, KV cache and compute buffer."""
        return self.weights_bytes + self.kv_cache_bytes + self.compute_bytes


class Loaded(_Line):
    """The model is ready."""

    type: Literal["loaded"] = "loaded"
    context: int
    train_context: int
    memory: tuple[DeviceMemory, ...]
    duration_s: float
    has_chat_template: bool
    threads: int


class PrefillProgressed(_Line):
    """Prompt processing: `done` of `total` tokens are in the KV cache, `reused` of them from before.

    `dropped` are indexes into the turn's messages that were left out for lack of room, `cut` are
    tokens left out at the beginning of the answer that is continued. It comes in the middle of an
    answer, too, where that reached the end of the context and goes on.
    """

    type: Literal["prefill_progressed"] = "prefill_progressed"
    turn: int
    done: int
    total: int
    reused: int = 0
    dropped: tuple[int, ...] = ()
    cut: int = 0


class SummaryProgressed(_Line):
    """The model summarises the oldest turns: `done` of `total` tokens are read, `tokens` written.

    Once there is a `text`, it stands in the prompt in the place of `replaced`, indexes into the turn's
    messages; `tokens` are then those of its turn, in the place of `replaced_tokens`. If none comes,
    it did not work and turns are dropped instead. `turns` counts an earlier summary as one.
    """

    type: Literal["summary_progressed"] = "summary_progressed"
    turn: int
    turns: int
    replaced: tuple[int, ...]
    replaced_tokens: int
    done: int = 0
    total: int = 0
    tokens: int = 0
    text: str = ""


class TokensGenerated(_Line):
    """Some more of the answer, of one kind, without its tags; of a tool call only the whole.

    `text` is always whole characters; `tokens` were needed for it.

    `elapsed_s` is measured from the first token, `context_used` in tokens.
    """

    type: Literal["tokens_generated"] = "tokens_generated"
    turn: int
    text: str
    tokens: int
    context_used: int
    elapsed_s: float
    part: PartKind = PartKind.TEXT
    call: ToolCall | None = None


EndReason = Literal["stop", "length", "context", "cancelled"]


class TurnFinished(_Line):
    """A turn ended.

    `reason`: `stop` (the model ended), `length` (max_tokens), `context` (no room left), `cancelled`.
    """

    type: Literal["turn_finished"] = "turn_finished"
    turn: int
    reason: EndReason
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    prefill_s: float
    first_token_s: float | None
    generate_s: float
    context_used: int
    context: int
    reasoning_tokens: int = 0
    reasoning_s: float = 0.0
    reasoning_closed: bool = True
    """False if the answer ended in the middle of its reasoning."""
    kept_for_reply: int = 0
    """Tokens of the context that no prompt may take."""

    @property
    def tokens_per_second(self) -> float | None:
        """Rate of token generation, the first token excluded; None below two tokens."""
        if self.generated_tokens < 2 or self.generate_s <= 0:
            return None
        return (self.generated_tokens - 1) / self.generate_s


class SnapshotDone(_Line):
    """Answer to `Snapshot`: its size in bytes, and the tokens in it."""

    type: Literal["snapshot_done"] = "snapshot_done"
    request: int
    size_bytes: int
    tokens: int


class Alive(_Line):
    """Answer to `Ping`."""

    type: Literal["alive"] = "alive"
    turn: int
    running: bool


class Failed(_Line):
    """A command failed, the worker goes on. `stage`: `load`, `generate`, `snapshot`, `protocol`."""

    type: Literal["failed"] = "failed"
    stage: Literal["load", "generate", "snapshot", "protocol"]
    reason: str
    """Machine-readable: `file`, `architecture`, `memory`, `template`, `context`, `question` (too long without
    any turn before it), `cancelled`, `device`, `sampling`, `other`."""
    detail: str
    turn: int | None = None
    request: int | None = None
    tokens: int = 0
    """Of the prompt that the context has no room for."""


Message = Annotated[
    Hello
    | LoadProgressed
    | Loaded
    | PrefillProgressed
    | SummaryProgressed
    | TokensGenerated
    | TurnFinished
    | SnapshotDone
    | Alive
    | Failed,
    pydantic.Field(discriminator="type"),
]

_command_adapter: pydantic.TypeAdapter[Command] = pydantic.TypeAdapter(Command)
message_adapter: pydantic.TypeAdapter[Message] = pydantic.TypeAdapter(Message)


def command_line(command: Command) -> str:
    """A command as the worker reads it, in ASCII: file names need not be Unicode."""
    return json.dumps(command.model_dump(mode="json")) + "\n"


def read_command(line: bytes) -> Command:
    """What `command_line` wrote.

    Raises:
        ValueError: It is no command.
    """
    try:
        return _command_adapter.validate_python(json.loads(line))
    except RecursionError as error:
        raise ValueError("nested too deep") from error
