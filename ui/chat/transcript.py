"""The messages of a chat, one below the other, and the marks between them."""

from __future__ import annotations

import time

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtWidgets import QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from app.chat.events import AnswerExtended, PromptRead, TurnFinished, TurnsSummarised
from app.chat.message import Message, Role
from app.engine.protocol import PartKind
from ui.chat.bubble import Bubble
from ui.chat.marks import LeftOutLine, SummaryMark
from ui.widgets.labels import label

RENDER_MS = 60
RENDER_SHARE = 0.2
"""Of the window's time, for an answer so long that drawing it takes some."""
COLUMN_PX = 720
LEAST_PX = 120
"""What stands below leaves so much of the chat in sight."""
EMPTY = "Ask the model something. Everything stays on this machine."


class Transcript(QScrollArea):
    """Follows the end as long as the person does. Signals: follows, continue_clicked."""

    follows = Signal(bool)
    continue_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._bubbles: list[Bubble] = []
        self._summaries: list[SummaryMark] = []
        self._left_out: LeftOutLine | None = None
        self._marked: tuple[int, ...] = ()
        self._answer: Bubble | None = None
        self._pieces: list[str] = []
        self._thoughts: list[str] = []
        self._follow = True
        self._render = QTimer(self)
        self._render.setSingleShot(True)
        self._render.setInterval(RENDER_MS)
        self._render.timeout.connect(self._show_answer)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumHeight(LEAST_PX)
        self.setAccessibleName("Conversation")
        self._build()

    def _build(self) -> None:
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
        self.setWidget(content)
        bar = self.verticalScrollBar()
        bar.valueChanged.connect(self._scrolled)
        bar.rangeChanged.connect(self._grown)

    def sizeHint(self) -> QSize:
        """No more than it must have: it takes what is left."""
        return QSize(COLUMN_PX, LEAST_PX)

    def _grown(self, _low: int, high: int) -> None:
        """The column stays above the composer where a scroll bar takes room on one side."""
        bar = self.verticalScrollBar()
        self.setViewportMargins(bar.sizeHint().width() if high else 0, 0, 0, 0)
        if self._follow:
            bar.setValue(bar.maximum())

    def _scrolled(self, value: int) -> None:
        self._follow = value >= self.verticalScrollBar().maximum() - 8
        self.follows.emit(self._follow)

    def to_end(self) -> None:
        """Show the end, and follow it."""
        bar = self.verticalScrollBar()
        bar.setValue(bar.maximum())

    @property
    def shortened(self) -> bool:
        """True if messages of this chat are no longer in the prompt themselves."""
        return self._left_out is not None or bool(self._summaries)

    # --- a turn -----------------------------------------------------------------

    def start(self, user: Message) -> None:
        """A message was sent; its answer will come."""
        self._follow = True
        self._end_resumable()
        self._add(user)
        self._answer = Bubble(user=False)
        self._answer.continue_clicked.connect(self.continue_clicked)
        self._pieces, self._thoughts = [], []
        self._insert(self._answer)

    def resume(self, answer: Message) -> None:
        """The last answer goes on."""
        self._follow = True
        self._end_resumable()
        self._answer = self._bubbles[-1]
        self._pieces, self._thoughts = [answer.text], [answer.reasoning]
        self._show_answer()

    def note(self, words: str) -> None:
        """Say below the answer what is being done for it."""
        if self._answer is not None:
            self._answer.set_note(words)

    def extend(self, event: AnswerExtended) -> None:
        """More of the answer; drawn at most every 60 ms, less often where that takes long."""
        if event.part is PartKind.REASONING:
            self._thoughts.append(event.text)
        elif event.part is PartKind.TEXT:
            self._pieces.append(event.text)
        if event.call is not None and self._answer is not None:
            self._answer.set_calls([*self._answer.calls, event.call])
        if not self._render.isActive():
            self._render.start()

    def finish(self, event: TurnFinished, *, resumable: bool) -> None:
        """The answer is final, or what there is of it."""
        self._render.stop()
        answer, stats = event.answer, event.answer.stats
        if self._answer is None:
            return
        self._answer.set_text(answer.text)
        self._answer.set_calls(answer.tool_calls)
        thought = [part for part in answer.parts if part.kind is PartKind.REASONING]
        # Of an answer that went on, the statistics know the last stretch only.
        tokens = sum(part.tokens for part in answer.parts) or (stats.tokens if stats else 0)
        self._answer.finish(
            answer.outcome,
            tokens or None,
            thought=(
                answer.reasoning,
                sum(p.tokens for p in thought),
                sum(p.seconds for p in thought),
            ),
            resumable=resumable,
        )
        self._answer = None

    def take_back(self) -> None:
        """The last message is no longer part of the chat, nor is its answer."""
        self._render.stop()
        self._answer = None
        for bubble in (self._bubbles.pop(), self._bubbles.pop()):
            self._remove(bubble)
        self._empty.setVisible(not self._bubbles)

    def clear(self) -> None:
        """An empty chat."""
        self._answer = None
        self._render.stop()
        for widget in (*self._bubbles, *self._summaries, self._left_out):
            if widget is not None:
                self._remove(widget)
        self._bubbles, self._summaries, self._left_out, self._marked = [], [], None, ()
        self._empty.show()

    # --- marks --------------------------------------------------------------------

    def mark_left_out(self, event: PromptRead) -> None:
        """Older messages were left out of the prompt."""
        if not event.left_out or event.left_out == self._marked:
            return
        self._marked = event.left_out
        if self._left_out is None:
            self._left_out = LeftOutLine()
        self._left_out.set_count(len(event.left_out))
        self._messages.removeWidget(self._left_out)
        self._put_after(self._left_out, event.left_out[-1])
        self._dim(event.left_out)

    def mark_summarised(self, event: TurnsSummarised) -> None:
        """A summary stands for older messages."""
        if event.summary is None:
            return
        for earlier in self._summaries:
            earlier.set_newest(newest=False)
        mark = SummaryMark(event.summary)
        self._summaries.append(mark)
        self._put_after(mark, event.summary.after)
        self._dim(event.replaced)

    def _put_after(self, widget: QWidget, index: int) -> None:
        self._messages.insertWidget(self._messages.indexOf(self._bubbles[index]) + 1, widget)

    def _dim(self, indexes: tuple[int, ...]) -> None:
        for index in indexes:
            self._bubbles[index].set_dimmed()

    # --- widgets --------------------------------------------------------------------

    def _end_resumable(self) -> None:
        if self._bubbles:
            self._bubbles[-1].set_resumable(False)

    def _add(self, message: Message) -> None:
        bubble = Bubble(user=message.role is Role.USER)
        bubble.set_text(message.text)
        self._insert(bubble)

    def _insert(self, bubble: Bubble) -> None:
        self._empty.hide()
        self._bubbles.append(bubble)
        self._messages.insertWidget(self._messages.count() - 1, bubble)

    def _remove(self, widget: QWidget) -> None:
        self._messages.removeWidget(widget)
        widget.hide()
        widget.deleteLater()

    def _show_answer(self) -> None:
        if self._answer is None:
            return
        started = time.monotonic()
        if self._thoughts:
            self._answer.set_thought("".join(self._thoughts))
        self._answer.set_text("".join(self._pieces))
        took_ms = 1000 * (time.monotonic() - started)
        self._render.setInterval(max(RENDER_MS, round(took_ms / RENDER_SHARE)))
