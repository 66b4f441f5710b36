"""The chat: transcript, composer, one quiet line of meters."""

from __future__ import annotations

from typing import assert_never

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QTextCursor
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from app.chat.events import (
    AnswerExtended,
    AnswerResumed,
    ChatEvent,
    ConversationCleared,
    PromptRead,
    QuestionReturned,
    TurnFinished,
    TurnsSummarised,
    TurnStarted,
)
from app.chat.message import ContextUse, Message, Outcome
from app.chat.meters import Meters
from app.engine.protocol import Loaded
from app.events import ContextOffered, WaysOutFound
from app.hardware.model import HardwareReport, HardwareSampled
from app.plan.model import LoadPlan
from app.settings.model import Overflow, Settings
from ui.chat.composer import Composer
from ui.chat.context_line import ContextLine
from ui.chat.device_strip import DeviceStrip
from ui.chat.head import ChatHead
from ui.chat.meter import Meter
from ui.chat.transcript import COLUMN_PX, Transcript
from ui.widgets.error_line import ErrorLine
from ui.widgets.labels import button, frame, label
from ui.widgets.question_line import QuestionLine
from ui.widgets.shrinking_area import ShrinkingArea
from ui.widgets.ways_panel import WaysPanel

WAKES = "Your question is sent as soon as the model is loaded."
WAITS = f"{WAKES} Esc takes it back."
_CUT_OFF = (Outcome.STOPPED, Outcome.TRUNCATED, Outcome.FULL, Outcome.INTERRUPTED)


class ChatView(QWidget):
    """Signals: what the person asks for."""

    submitted = Signal(str)
    continue_clicked = Signal()
    stop_clicked = Signal()
    new_chat_clicked = Signal()
    reload_clicked = Signal()
    way_chosen = Signal(object)
    end_clicked = Signal()
    split_clicked = Signal()
    system_prompt_changed = Signal(str)
    overflow_chosen = Signal(Overflow)
    enlarge_clicked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = self._reserve = 0
        self._error, self._ways = "", WaysOutFound()
        self._meters: Meters | None = None
        self._returned = ""
        self._running = self._ready = self._loaded = self._loading = False
        self._waits = False
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        self._head = ChatHead()
        self._head.new_chat_clicked.connect(self._new_chat)
        self._head.system_prompt_changed.connect(self.system_prompt_changed)
        self.model = self._head.model
        column.addWidget(self._head)
        self.transcript = Transcript()
        self.transcript.continue_clicked.connect(self._continue)
        column.addWidget(self.transcript, 1)
        self._build_bottom(column)
        self.set_engine("Not loaded", ready=False)

    def _build_bottom(self, column: QVBoxLayout) -> None:
        centre = QHBoxLayout()
        centre.setContentsMargins(32, 0, 32, 12)
        holder = QWidget()
        holder.setMaximumWidth(COLUMN_PX)
        inner = QVBoxLayout(holder)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(0)
        self._build_lines(inner)
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 6)
        row.setSpacing(6)
        self.composer = Composer()
        self.composer.submitted.connect(self._submit)
        self.composer.escaped.connect(self.stop)
        self._send = button("Send", "primary")
        self._send.setFixedWidth(84)
        self._send.clicked.connect(self._send_or_stop)
        row.addWidget(self.composer, 1)
        row.addWidget(self._send, 0, Qt.AlignmentFlag.AlignBottom)
        inner.addLayout(row)
        self._meter = Meter()
        inner.addWidget(self._meter)
        centre.addStretch(1)
        centre.addWidget(holder, 100)
        centre.addStretch(1)
        column.addWidget(frame("rule"))
        column.addSpacing(8)
        column.addLayout(centre)
        column.addWidget(frame("rule"))
        self.strip = DeviceStrip()
        column.addWidget(self.strip)

    def _build_lines(self, column: QVBoxLayout) -> None:
        """What may stand above the composer."""
        jump = button("Jump to the end", "link")
        jump.clicked.connect(self.transcript.to_end)
        jump.hide()
        self.transcript.follows.connect(lambda follows: jump.setVisible(not follows))
        column.addWidget(jump, 0, Qt.AlignmentFlag.AlignHCenter)
        area = ShrinkingArea()
        column.addWidget(area)
        self.question = QuestionLine("Stop engine", "Wait")
        self.question.accepted.connect(self.end_clicked)
        self.trouble = WaysPanel()
        self.trouble.dismissed.connect(self._dismissed)
        self.trouble.chosen.connect(self._way_chosen)
        self.alarm = ErrorLine(action="Adjust split")
        self.alarm.acted.connect(self.split_clicked)
        self.context_line = ContextLine()
        self.context_line.overflow_chosen.connect(self.overflow_chosen)
        self.context_line.enlarge_clicked.connect(self._enlarge)
        self._note = label("", "muted", wrap=True)
        self._note.hide()
        for line in (self.question, self.trouble, self.alarm, self.context_line, self._note):
            area.lines.addWidget(line)

    # --- what the person does -------------------------------------------------

    def _new_chat(self) -> None:
        self.composer.setFocus()
        self.new_chat_clicked.emit()

    def _submit(self) -> None:
        text = self.composer.toPlainText().strip()
        if not text or self._running:
            return
        if self._loading:
            self._waits = True
            self.show_note(WAITS)
        elif self._ready:
            if not self._loaded:
                self.show_note(WAKES)
            self.submitted.emit(text)

    def _end_wait(self) -> None:
        self._waits = False
        if self._note.text() in (WAITS, WAKES):
            self.show_note("")

    def _continue(self) -> None:
        if self._ready and not self._running:
            self.continue_clicked.emit()

    def stop(self) -> None:
        """The answer, or what waits to be asked."""
        if self._running:
            self.stop_clicked.emit()
        elif self._waits:
            self._end_wait()

    def _send_or_stop(self) -> None:
        self.composer.setFocus()
        if self._running:
            self.stop_clicked.emit()
        else:
            self._submit()

    def _enlarge(self) -> None:
        """The question that did not fit is sent once it does, if it still stands there."""
        text = self.composer.toPlainText().strip()
        self.enlarge_clicked.emit(text if text == self._returned else "")

    # --- what the core says ---------------------------------------------------

    def set_system_prompt(self, text: str) -> None:
        """Show the stored system prompt, without announcing it as a change."""
        self._head.set_system_prompt(text)

    def set_settings(self, settings: Settings) -> None:
        """What happens when the context is full, and what is kept for the reply."""
        self._reserve = settings.reply_reserve
        self.context_line.set_overflow(settings.overflow)

    def set_offer(self, event: ContextOffered) -> None:
        """Which longer context fits."""
        self.context_line.set_offer(event.offer, event.sentence)

    def set_engine(
        self,
        words: str,
        *,
        ready: bool,
        error: str = "",
        asleep: bool = False,
        loading: bool = False,
    ) -> None:
        """Show the engine's state; `error` opens the banner with the Reload button.

        `asleep`: nothing is loaded, and the next question loads it; `loading`: it waits for that.
        """
        self._ready, self._loaded, self._loading = ready or asleep, ready, loading
        if not self._ready and not loading:
            self._end_wait()
        self.model.set_state(words, ready=ready, error=bool(error))
        self._error = error
        self._show_trouble()
        self._update_send()

    def show_failure(self, error: str) -> None:
        """Something else could not be done; the engine is as it was."""
        self._error = error
        self._show_trouble()

    def set_ways(self, found: WaysOutFound) -> None:
        """What is wrong and what can be done, in place of the error alone; an empty one ends it."""
        self._ways = found
        self._show_trouble()

    def _show_trouble(self) -> None:
        found = self._ways
        if found.sentence:
            ways = [(way.title, way.effect) for way in found.ways]
            state = "ok" if found.good else "error"
            self.trouble.show_ways(found.sentence, found.detail, ways, state=state)
        elif self._error:
            self.trouble.show_ways(self._error, "", [] if self._loaded else [("Reload", "")])
        else:
            self.trouble.dismiss()

    def _dismissed(self) -> None:
        if not self._ways.sentence:
            self._error = ""
        self.set_ways(WaysOutFound())

    def _way_chosen(self, number: int) -> None:
        if self._ways.sentence:
            self.way_chosen.emit(self._ways.ways[number])
        else:
            self.reload_clicked.emit()

    def set_loaded(self, loaded: Loaded | None, plan: LoadPlan | None) -> None:
        """The context's size, and the model's memory on each device."""
        self.strip.set_loaded(loaded, plan)
        if loaded is not None:
            self._context = loaded.context
            self.context_line.set_offer(None)
            self.context_line.set_cut_off(False)
            self._show_meters(self._no_meters())
            if self._waits:
                self._end_wait()
                self._submit()

    def show_note(self, sentence: str) -> None:
        """One quiet line above the composer, until the next answer is there."""
        self._note.setText(sentence)
        self._note.setVisible(bool(sentence))

    def set_report(self, report: HardwareReport) -> None:
        """The devices, for the strip at the foot."""
        self.strip.set_report(report)

    def set_sample(self, sample: HardwareSampled) -> None:
        """Live values of the devices."""
        self.strip.set_sample(sample)

    def receive(self, event: ChatEvent) -> None:
        """Something happened in the chat."""
        match event:
            case TurnStarted(user=user):
                self.start_turn(user)
            case AnswerResumed(answer=answer):
                self.transcript.resume(answer)
                self._begin()
            case PromptRead():
                self.read_prompt(event)
            case TurnsSummarised():
                self._summarise(event)
            case AnswerExtended():
                self.extend(event)
            case TurnFinished():
                self.finish_turn(event)
            case QuestionReturned():
                self._take_back(event)
            case ConversationCleared():
                self.clear()
            case _:
                assert_never(event)

    def start_turn(self, user: Message) -> None:
        """A message was sent: the composer is free for the next."""
        if self.composer.toPlainText().strip() == user.text:
            self.composer.clear()
        self._end_wait()
        self.transcript.start(user)
        self._begin()

    def _begin(self) -> None:
        self._returned = ""
        self._running = True
        self.model.set_busy(True)
        self.context_line.set_problem("")
        self.context_line.set_cut_off(False)
        self.context_line.set_busy(True)
        self._update_send()

    def read_prompt(self, event: PromptRead) -> None:
        """Prompt processing advanced."""
        self.transcript.note("")
        self.transcript.mark_left_out(event)
        self._show_meters((self._meters or self._no_meters()).read(event))

    def _summarise(self, event: TurnsSummarised) -> None:
        turns = "1 older turn" if event.turns == 1 else f"{event.turns:,} older turns"
        written = f" {event.tokens:,} tokens" if event.tokens else ""
        self.transcript.note(f"Summarising {turns} ...{written}")
        self.transcript.mark_summarised(event)

    def extend(self, event: AnswerExtended) -> None:
        """More of the answer."""
        self.transcript.extend(event)
        self._show_meters((self._meters or self._no_meters()).extended(event))

    def finish_turn(self, event: TurnFinished) -> None:
        """The answer is final, or what there is of it."""
        answer = event.answer
        resumable = answer.outcome in _CUT_OFF and not answer.tool_calls
        self.transcript.finish(event, resumable=resumable)
        if answer.stats is not None:
            self._show_meters(Meters.of(answer.stats))
        if event.error is not None and event.context_full:
            self.context_line.set_problem(event.error.title)
        elif event.error is not None:
            self._error = str(event.error)
            self._show_trouble()
        self._end()
        self.context_line.set_cut_off(answer.outcome is Outcome.FULL)

    def _take_back(self, event: QuestionReturned) -> None:
        """The question goes back to where it was written."""
        self.transcript.take_back()
        self._returned = event.text
        written = self.composer.toPlainText().strip()
        self.composer.setPlainText(f"{event.text}\n\n{written}" if written else event.text)
        self.composer.moveCursor(QTextCursor.MoveOperation.End)
        self.context_line.set_problem(f"{event.error.title} Your question is kept below.")
        self._end()

    def _end(self) -> None:
        self.show_note("")
        self._running = False
        self.model.set_busy(False)
        self.context_line.set_busy(False)
        self._update_send()

    def clear(self) -> None:
        """An empty chat."""
        self.transcript.clear()
        self.context_line.set_problem("")
        self.context_line.set_cut_off(False)
        self._show_meters(self._no_meters())
        self._end()

    def _no_meters(self) -> Meters:
        return Meters(use=ContextUse.of(0, self._context, self._reserve))

    def _show_meters(self, meters: Meters) -> None:
        self._meters = meters
        self._meter.show_meters(meters)
        self.context_line.set_use(meters.use, shortened=self.transcript.shortened)

    def _update_send(self) -> None:
        self._send.setText("Stop" if self._running else "Send")
        usable = self._running or self._ready or self._loading
        self._send.setEnabled(usable)
        self._send.setToolTip("" if usable else "Load a model first.")
