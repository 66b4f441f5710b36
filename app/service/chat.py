"""`ChatService`: the conversation's way to the engine, also to one that sleeps."""

from __future__ import annotations

from collections.abc import Callable

from app.chat.events import ChatEvent
from app.chat.message import Message, Summary
from app.engine import protocol
from app.engine.model import EngineState, EngineStateChanged, ModelLoaded, TurnEnded, TurnProgressed
from app.errors import AppError
from app.events import AppEvent, OperationFailed
from app.service.conversation import Conversation
from app.service.engine import EngineService
from app.service.jobs import Emit, Worker
from app.service.planning import Planning
from app.service.snapshots import SnapshotService
from app.settings.model import Settings


class ChatService:
    """Methods return at once; what comes of them arrives as events."""

    def __init__(
        self,
        conversation: Conversation,
        planning: Planning,
        engine: EngineService,
        snapshots: SnapshotService,
        jobs: Worker,
        emit: Emit,
        settings: Callable[[], Settings],
    ) -> None:
        """Nothing is said yet.

        Args:
            conversation: What is said.
            planning: Has the model, whose makers advise how to sample.
            engine: Answers.
            snapshots: Keeps the KV cache while the model sleeps.
            jobs: Wakes it.
            emit: Told of everything.
            settings: Those in force.
        """
        self._conversation, self._planning, self._engine = conversation, planning, engine
        self._snapshots, self._jobs, self._emit = snapshots, jobs, emit
        self._settings = settings
        self._max_tokens: int | None = None
        self._once_awake: Callable[[], None] | None = None
        self._wakes = False

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation."""
        return self._conversation.messages

    @property
    def running(self) -> bool:
        """True while an answer is awaited."""
        return self._conversation.running

    @property
    def resumable(self) -> bool:
        """True if the last answer was cut off, and can go on."""
        return self._conversation.resumable

    @property
    def turn(self) -> int:
        """Number of the last turn begun."""
        return self._conversation.turn

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """What the model wrote of the oldest messages."""
        return self._conversation.summaries

    # --- what it is asked for ---------------------------------------------------

    def send(self, text: str, *, max_tokens: int | None = None) -> None:
        """Send a message; the answer streams in as events. A model that sleeps is loaded for it first."""
        self._max_tokens = max_tokens
        self.send_again(text)

    def resume(self, *, max_tokens: int | None = None) -> None:
        """Let the last answer go on where it was cut off."""
        self._max_tokens = max_tokens
        self.resume_again()

    def send_again(self, text: str) -> None:
        """Send a message, with the same limit as the last one."""
        if self._engine.asleep:
            self._wake(lambda: self.send_again(text))
            return
        layout = self._planning.layout
        self._ask(self._conversation.begin(text, self._settings(), layout, self._max_tokens))

    def resume_again(self) -> None:
        """Let the last answer go on, with the same limit."""
        if self._engine.asleep:
            self._wake(self.resume_again)
            return
        layout = self._planning.layout
        self._ask(self._conversation.resume(self._settings(), layout, self._max_tokens))

    def new_chat(self) -> None:
        """Forget the conversation; a running answer is stopped, and what waits for the model is not asked."""
        self._once_awake = None
        event, running = self._conversation.clear()
        if running:
            self._engine.cancel()
        self._emit(event)

    def sleep(self, *, keep: bool) -> None:
        """Unload the model until the next question; `keep` saves the chat's KV cache first.

        What is asked while it is saved is answered, and the model stays, as does one that is loaded then.
        """
        command = self._engine.command

        def put_away() -> None:
            if not self.running and self._engine.command is command:
                self._engine.unload(asleep=True)

        if keep and self.messages and self._engine.state is EngineState.READY:
            self._snapshots.save(then=put_away)
        else:
            self._engine.unload(asleep=True)

    # --- what happens -----------------------------------------------------------

    def idle(self) -> None:
        """Nothing was asked for as long as the settings say, unless that is just changing."""
        if not self.running:
            self.sleep(keep=self._settings().snapshot_when_idle)

    def answered(self, event: TurnProgressed | TurnEnded) -> None:
        """The engine says something of a turn."""
        chat_event = self._conversation.receive(event)
        if chat_event is not None:
            self._emit(chat_event)

    def notice(self, event: AppEvent) -> None:
        """Ask what was asked of a model that slept; what does not wake it leaves the question to the person."""
        if isinstance(event, ModelLoaded) and self._once_awake is not None:
            afterwards, self._once_awake = self._once_awake, None
            afterwards()
        elif isinstance(event, EngineStateChanged):
            # The end of falling asleep may still have to be told.
            self._wakes |= event.state is EngineState.STARTING
            if self._wakes and event.state in (EngineState.STOPPED, EngineState.CRASHED):
                self._once_awake = None

    def _wake(self, afterwards: Callable[[], None]) -> None:
        self._once_awake, self._wakes = afterwards, False

        def failed(error: AppError) -> None:
            self._once_awake = None
            self._emit(OperationFailed(error=error))

        self._jobs.submit(self._engine.load_now, failed)

    def _ask(self, begun: tuple[ChatEvent, protocol.Generate] | None) -> None:
        if begun is not None:
            self._emit(begun[0])
            self._engine.generate(begun[1])
