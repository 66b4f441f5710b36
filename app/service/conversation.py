"""The conversation, behind a lock: the window asks and the engine's thread answers."""

from __future__ import annotations

import threading
import time
import uuid

from app.chat.events import ChatEvent
from app.chat.message import Message, Summary
from app.chat.session import ChatSession
from app.engine import protocol
from app.engine.model import TurnEnded, TurnProgressed
from app.gguf.model import ModelLayout
from app.settings.model import Settings
from app.settings.requests import generate_command


class Conversation:
    """A `ChatSession` for several threads.

    Attributes:
        id: Names the chat; another one with each new chat.
    """

    def __init__(self, system_prompt: str) -> None:
        """Empty."""
        self._lock = threading.RLock()
        self.id = uuid.uuid4().hex
        self._session = ChatSession(system_prompt=system_prompt)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All of them."""
        with self._lock:
            return self._session.messages

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """Those that stand for messages."""
        with self._lock:
            return self._session.summaries

    @property
    def running(self) -> bool:
        """True while an answer is awaited."""
        with self._lock:
            return self._session.running

    @property
    def resumable(self) -> bool:
        """True if the last answer can go on."""
        with self._lock:
            return self._session.resumable

    @property
    def turn(self) -> int:
        """Number of the last turn begun; 0 if none was."""
        with self._lock:
            return self._session.turn

    def set_system_prompt(self, text: str) -> None:
        """Use another one from the next message on."""
        with self._lock:
            self._session.system_prompt = text

    def begin(
        self, text: str, settings: Settings, layout: ModelLayout | None, max_tokens: int | None
    ) -> tuple[ChatEvent, protocol.Generate] | None:
        """A new message, and what to ask of the engine; None while an answer runs."""
        with self._lock:
            if self._session.running:
                return None
            started = self._session.begin(text, now_s=time.monotonic())
            command = generate_command(
                settings, layout, started.turn, self._session.prompt(), max_tokens
            )
        return started, command

    def resume(
        self, settings: Settings, layout: ModelLayout | None, max_tokens: int | None
    ) -> tuple[ChatEvent, protocol.Generate] | None:
        """The last answer goes on; None if it cannot."""
        with self._lock:
            resumed = self._session.resume(now_s=time.monotonic())
            if resumed is None:
                return None
            command = generate_command(
                settings,
                layout,
                resumed.turn,
                self._session.prompt(),
                max_tokens,
                continue_last=True,
            )
        return resumed, command

    def receive(self, event: TurnProgressed | TurnEnded) -> ChatEvent | None:
        """What a piece of the answer means for the chat."""
        with self._lock:
            return self._session.receive(event, now_s=time.monotonic())

    def clear(self) -> tuple[ChatEvent, bool]:
        """Forget everything; True if an answer was running."""
        with self._lock:
            running = self._session.running
            self.id = uuid.uuid4().hex
            return self._session.clear(), running
