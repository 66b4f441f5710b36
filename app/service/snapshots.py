"""`SnapshotService`: the chat's KV cache goes to disk on request, and comes back with the next load."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from app import units
from app.chat.events import ConversationCleared, TurnFinished
from app.engine import protocol
from app.engine.model import EngineState, ModelLoaded
from app.engine.safety import engine_version
from app.engine.snapshots import SnapshotStore
from app.errors import AppError, ErrorKind
from app.events import AppEvent, SnapshotChanged, SnapshotMeasured, SnapshotState
from app.service.engine import EngineService
from app.service.jobs import Emit, Worker
from app.settings.model import Settings
from app.units import GB

WORTH = 0.5
"""A snapshot of which less than this share is of use to the next prompt is stale."""


class SnapshotService:
    """Methods return at once; what comes of them arrives as events.

    Chats end with the program, and so do their snapshots.
    """

    def __init__(
        self,
        folder: Path,
        engine: EngineService,
        jobs: Worker,
        emit: Emit,
        settings: Callable[[], Settings],
        chat: Callable[[], str],
    ) -> None:
        """`chat` names the chat in progress, `folder` takes the files."""
        self._store = SnapshotStore(folder, settings().snapshot_limit_gb * GB)
        self._engine, self._jobs, self._emit = engine, jobs, emit
        self._settings, self._chat = settings, chat
        self._requests = itertools.count(1)
        self._saved: set[str] = set()
        self._restored: protocol.SnapshotDone | None = None

    def start(self) -> None:
        """Throw away what programs left that have ended."""
        self._jobs.submit(self._store.clean)

    def close(self) -> None:
        """The chats of this program end."""
        for chat in self._saved:
            self._store.forget(chat)

    # --- what it is asked for ---------------------------------------------------

    def measure(self) -> None:
        """Tell how large the chat's KV cache is, and what room there is."""

        def told(found: protocol.SnapshotDone) -> None:
            self._emit(
                SnapshotMeasured(
                    size_bytes=found.size_bytes,
                    tokens=found.tokens,
                    kept_bytes=self._store.total_bytes(),
                    limit_bytes=self._limit(),
                    free_bytes=self._store.free_bytes(),
                )
            )

        self._jobs.submit(lambda: self._ask("measure", Path(), told, self._failed))

    def save(self, then: Callable[[], None] = lambda: None) -> None:
        """Save the chat's KV cache, and do something afterwards, whatever came of it."""
        chat = self._chat()

        def failed(error: AppError) -> None:
            self._failed(error)
            then()

        def measured(found: protocol.SnapshotDone) -> None:
            self._limit()
            path = self._store.make_room(chat, found.size_bytes)
            size = units.format_file_size(found.size_bytes)
            self._tell(SnapshotState.SAVING, f"Saving the KV cache, {size}.", found)
            # By the time it is written, another load may be on its way.
            command = self._engine.command
            self._ask("save", path, lambda done: written(done, command), broken)

        def written(done: protocol.SnapshotDone, command: protocol.Load | None) -> None:
            self._saved.add(chat)
            if command is None or chat != self._chat():
                self._forget_others()
            else:
                self._store.keep(chat, command, engine_version())
                size = units.format_file_size(done.size_bytes)
                sentence = f"KV cache saved: {done.tokens:,} tokens, {size}."
                self._tell(SnapshotState.SAVED, sentence, done)
            then()

        def broken(error: AppError) -> None:
            self._store.forget(chat)
            self._saved.discard(chat)
            failed(error)

        self._jobs.submit(lambda: self._ask("measure", Path(), measured, failed))

    def receive(self, event: AppEvent) -> None:
        """What the rest of the app says: a load restores, the first answer after it judges."""
        match event:
            case ModelLoaded():
                self._restore()
            case TurnFinished(answer=answer) if self._restored and answer.stats:
                restored, self._restored = self._restored, None
                if answer.stats.reused_tokens < WORTH * restored.tokens:
                    self._store.forget(self._chat())
                    self._tell(
                        SnapshotState.DROPPED,
                        "The saved KV cache no longer matched the chat and was thrown away.",
                        restored,
                    )
            case ConversationCleared():
                self._restored = None
                self._jobs.submit(self._forget_others)
            case _:
                pass

    # --- steps ------------------------------------------------------------------

    def _restore(self) -> None:
        chat, command = self._chat(), self._engine.command
        if chat not in self._saved or command is None:
            return
        path = self._store.usable(chat, command, engine_version())
        if path is None:
            self._saved.discard(chat)
            self._emit(
                SnapshotChanged(
                    state=SnapshotState.DROPPED,
                    sentence="The saved KV cache was changed, or made with other settings, and was thrown away.",
                )
            )
            return

        def restored(done: protocol.SnapshotDone) -> None:
            self._restored = done
            self._tell(SnapshotState.RESTORED, f"KV cache restored: {done.tokens:,} tokens.", done)

        def broken(error: AppError) -> None:
            # What ended the engine once would do so with each load.
            self._store.forget(chat)
            self._saved.discard(chat)
            self._failed(error)

        self._ask("restore", path, restored, broken)

    def _forget_others(self) -> None:
        """Chats that are gone need no snapshot."""
        for chat in self._saved - {self._chat()}:
            self._store.forget(chat)
            self._saved.discard(chat)

    def _limit(self) -> int:
        self._store.limit_bytes = limit = self._settings().snapshot_limit_gb * GB
        return limit

    def _ask(
        self,
        action: Literal["measure", "save", "restore"],
        path: Path,
        then: Callable[[protocol.SnapshotDone], None],
        failed: Callable[[AppError], None],
    ) -> None:
        if self._engine.state is not EngineState.READY:
            failed(
                AppError(
                    "The KV cache can be saved once the model is loaded and the answer is finished.",
                    hint="Wait for it, or stop it, then try again.",
                    kind=ErrorKind.USAGE,
                )
            )
            return
        command = protocol.Snapshot(action=action, request=next(self._requests), path=str(path))

        def answered(found: protocol.SnapshotDone | AppError) -> None:
            if isinstance(found, AppError):
                self._jobs.submit(lambda: failed(found))
            else:
                self._jobs.submit(lambda: then(found), failed)

        self._engine.snapshot(command, answered)

    def _tell(self, state: SnapshotState, sentence: str, of: protocol.SnapshotDone) -> None:
        self._emit(
            SnapshotChanged(
                state=state, sentence=sentence, size_bytes=of.size_bytes, tokens=of.tokens
            )
        )

    def _failed(self, error: AppError) -> None:
        self._emit(SnapshotChanged(state=SnapshotState.FAILED, sentence=str(error)))
