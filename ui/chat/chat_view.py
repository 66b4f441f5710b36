"""The chat: transcript, composer, one quiet line of meters."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QPlainTextEdit, QScrollArea, QVBoxLayout, QWidget

from app import units
from app.chat.message import Message, Role
from app.chat.session import AnswerExtended, PromptRead, TurnFinished
from app.engine.protocol import Loaded, PartKind
from app.hardware.model import HardwareReport, HardwareSampled
from app.plan.model import LoadPlan
from ui.chat.bubble import Bubble
from ui.chat.composer import Composer
from ui.chat.device_strip import DeviceStrip
from ui.chat.model_button import ModelButton
from ui.widgets.error_line import ErrorLine
from ui.widgets.labels import button, frame, label, set_state
from ui.widgets.question_line import QuestionLine
from ui.widgets.timers import after_rest

RENDER_MS = 60
COLUMN_PX = 720
WARN, FULL = 0.75, 0.9
EMPTY = "Ask the model something. Everything stays on this machine."


class ChatView(QWidget):
    """Signals: what the person asks for."""

    submitted = Signal(str)
    stop_clicked = Signal()
    new_chat_clicked = Signal()
    reload_clicked = Signal()
    end_clicked = Signal()
    split_clicked = Signal()
    system_prompt_changed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._answer: Bubble | None = None
        self._pieces: list[str] = []
        self._thoughts: list[str] = []
        self._context = 0
        self._running = self._ready = False
        self._render = after_rest(self, RENDER_MS, self._show_answer)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        self._build_top(column)
        self._build_transcript(column)
        self._build_bottom(column)
        self.set_engine("Not loaded", ready=False)

    def _build_top(self, column: QVBoxLayout) -> None:
        top = QHBoxLayout()
        top.setContentsMargins(32, 10, 32, 10)
        new = button("New chat")
        new.clicked.connect(self.new_chat_clicked)
        top.addWidget(new)
        top.addStretch(1)
        self.model = ModelButton()
        top.addWidget(self.model)
        top.addStretch(1)
        toggle = button("System prompt")
        toggle.setCheckable(True)
        top.addWidget(toggle)
        column.addLayout(top)
        self._system = QPlainTextEdit()
        self._system.setAccessibleName("System prompt")
        self._system.setPlaceholderText(
            "Sent before each chat. A change holds from the next message on."
        )
        self._system.setFixedHeight(96)
        self._system.hide()
        self._system.textChanged.connect(
            lambda: self.system_prompt_changed.emit(self._system.toPlainText())
        )
        toggle.toggled.connect(self._system.setVisible)
        row = QHBoxLayout()
        row.setContentsMargins(32, 0, 32, 0)
        row.addWidget(self._system)
        column.addLayout(row)

    def _build_transcript(self, column: QVBoxLayout) -> None:
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        content = QWidget()
        centre = QHBoxLayout(content)
        centre.setContentsMargins(32, 8, 32, 16)
        centre.addStretch(1)
        holder = QWidget()
        holder.setMaximumWidth(COLUMN_PX)
        self._messages = QVBoxLayout(holder)
        self._messages.setContentsMargins(0, 0, 0, 0)
        self._messages.setSpacing(16)
        self._empty = label(EMPTY, "body-muted")
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._messages.addWidget(self._empty)
        self._messages.addStretch(1)
        centre.addWidget(holder, 100)
        centre.addStretch(1)
        self._scroll.setWidget(content)
        bar = self._scroll.verticalScrollBar()
        self._follow = True
        bar.valueChanged.connect(self._scrolled)
        bar.rangeChanged.connect(lambda _low, high: bar.setValue(high) if self._follow else None)
        column.addWidget(self._scroll, 1)

    def _build_bottom(self, column: QVBoxLayout) -> None:
        centre = QHBoxLayout()
        centre.setContentsMargins(32, 0, 32, 12)
        holder = QWidget()
        holder.setMaximumWidth(COLUMN_PX)
        inner = QVBoxLayout(holder)
        inner.setContentsMargins(0, 0, 0, 0)
        self._note = label("", "muted", wrap=True)
        self._note.hide()
        inner.addWidget(self._note)
        banner = QHBoxLayout()
        self._banner = label("", "", wrap=True)
        self._reload = button("Reload")
        self._reload.clicked.connect(self.reload_clicked)
        banner.addWidget(self._banner, 1)
        banner.addWidget(self._reload)
        self._jump = button("Jump to the end", "link")
        self._jump.clicked.connect(self._to_end)
        self._jump.hide()
        inner.addWidget(self._jump, 0, Qt.AlignmentFlag.AlignHCenter)
        self._banner_row = QWidget()
        self._banner_row.setLayout(banner)
        self._banner_row.hide()
        inner.addWidget(self._banner_row)
        self.alarm = ErrorLine(action="Adjust split")
        self.alarm.acted.connect(self.split_clicked)
        inner.addWidget(self.alarm)
        self.question = QuestionLine("Stop engine", "Wait")
        self.question.accepted.connect(self.end_clicked)
        inner.addWidget(self.question)
        row = QHBoxLayout()
        self.composer = Composer()
        self.composer.submitted.connect(self._submit)
        self.composer.escaped.connect(self._stop)
        self._send = button("Send", "primary")
        self._send.setFixedWidth(84)
        self._send.clicked.connect(self._send_or_stop)
        row.addWidget(self.composer, 1)
        row.addWidget(self._send, 0, Qt.AlignmentFlag.AlignBottom)
        inner.addLayout(row)
        self._meter = label("", "muted")
        self._meter.setAlignment(Qt.AlignmentFlag.AlignCenter)
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

    # --- what the person does -------------------------------------------------

    def _submit(self) -> None:
        text = self.composer.toPlainText().strip()
        if not text or self._running or not self._ready:
            return
        self.submitted.emit(text)

    def _stop(self) -> None:
        if self._running:
            self.stop_clicked.emit()

    def _send_or_stop(self) -> None:
        if self._running:
            self.stop_clicked.emit()
        else:
            self._submit()

    def _scrolled(self, value: int) -> None:
        self._follow = value >= self._scroll.verticalScrollBar().maximum() - 8
        self._jump.setVisible(not self._follow)

    def _to_end(self) -> None:
        bar = self._scroll.verticalScrollBar()
        bar.setValue(bar.maximum())

    # --- what the core says ---------------------------------------------------

    def set_model(self, name: str) -> None:
        """Name the model on top."""
        self.model.set_model(name)

    def set_system_prompt(self, text: str) -> None:
        """Show the stored system prompt, without announcing it as a change."""
        if text != self._system.toPlainText():
            self._system.blockSignals(True)
            self._system.setPlainText(text)
            self._system.blockSignals(False)

    def set_engine(self, words: str, *, ready: bool, error: str = "", asleep: bool = False) -> None:
        """Show the engine's state; `error` opens the banner with the Reload button.

        `asleep`: nothing is loaded, and the next question loads it.
        """
        self._ready = ready or asleep
        self.model.set_state(words, ready=ready, busy=self._running, error=bool(error))
        if error:
            self._banner.setText(error)
        self._banner_row.setVisible(bool(error))
        self._update_send()

    def set_loaded(self, loaded: Loaded | None, plan: LoadPlan | None) -> None:
        """The context's size, and the model's memory on each device."""
        self.strip.set_loaded(loaded, plan)
        if loaded is not None:
            self._context = loaded.context
            self._show_meter(None, None, 0)

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

    def start_turn(self, user: Message) -> None:
        """A message was sent: the composer is free for the next."""
        self.composer.clear()
        self._follow = True
        self._add(user)
        self._answer = Bubble(user=False)
        self._pieces, self._thoughts = [], []
        self._insert(self._answer)
        self._running = True
        self._update_send()

    def read_prompt(self, event: PromptRead) -> None:
        """Prompt processing advanced."""
        self._meter.setText(f"reading {units.format_percent(event.done / max(1, event.total))}")

    def extend(self, event: AnswerExtended) -> None:
        """More of the answer; drawn at most every 60 ms."""
        if event.part is PartKind.REASONING:
            self._thoughts.append(event.text)
        elif event.part is PartKind.TEXT:
            self._pieces.append(event.text)
        if not self._render.isActive():
            self._render.start()
        rate = (
            (event.tokens - 1) / event.elapsed_s
            if event.tokens > 1 and event.elapsed_s > 0
            else None
        )
        self._show_meter(rate, event.first_token_s, event.context_used)

    def finish_turn(self, event: TurnFinished) -> None:
        """The answer is final, or what there is of it."""
        self._render.stop()
        stats = event.answer.stats
        if self._answer is not None:
            self._answer.set_text(event.answer.text)
            tokens, seconds = (stats.reasoning_tokens, stats.reasoning_s) if stats else (0, 0.0)
            self._answer.finish(
                event.answer.outcome,
                stats.tokens if stats else None,
                thought=(event.answer.reasoning, tokens, seconds),
            )
        if stats:
            self._show_meter(stats.tokens_per_second, stats.first_token_s, stats.context_used)
            self._meter.setToolTip(
                f"Of {stats.prompt_tokens:,} tokens of the prompt {stats.reused_tokens:,} were kept from before."
            )
        self.show_note("")
        self._answer = None
        self._running = False
        if event.error is not None:
            self._banner.setText(str(event.error))
            self._banner_row.show()
        self._update_send()

    def clear(self) -> None:
        """An empty chat."""
        self._answer = None
        self._running = False
        self._render.stop()
        while self._messages.count() > 2:
            item = self._messages.takeAt(1)
            widget = item.widget() if item else None
            if widget is not None:
                widget.deleteLater()
        self._empty.show()
        self._show_meter(None, None, 0)
        self._update_send()

    def _add(self, message: Message) -> None:
        bubble = Bubble(user=message.role is Role.USER)
        bubble.set_text(message.text)
        self._insert(bubble)

    def _insert(self, bubble: Bubble) -> None:
        self._empty.hide()
        self._messages.insertWidget(self._messages.count() - 1, bubble)

    def _show_answer(self) -> None:
        if self._answer is not None:
            if self._thoughts:
                self._answer.set_thought("".join(self._thoughts))
            self._answer.set_text("".join(self._pieces))

    def _show_meter(self, rate: float | None, first_s: float | None, used: int) -> None:
        if not self._context:
            self._meter.setText("")
            return
        fraction = used / self._context
        parts = [f"{rate:.1f} tok/s"] if rate is not None else []
        parts += [f"first token {units.format_duration(first_s)}"] if first_s is not None else []
        short = units.format_tokens_short
        parts.append(
            f"context {short(used)} / {short(self._context)} ({units.format_percent(fraction)})"
        )
        self._meter.setText("  ·  ".join(parts))
        set_state(self._meter, "error" if fraction >= FULL else "warn" if fraction >= WARN else "")

    def _update_send(self) -> None:
        self._send.setText("Stop" if self._running else "Send")
        self._send.setEnabled(self._running or self._ready)
        self._send.setToolTip("" if self._running or self._ready else "Load a model first.")
