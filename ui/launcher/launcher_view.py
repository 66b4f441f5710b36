"""The launcher: this machine, the chosen model, its plan, what can be changed, one primary button."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication, QResizeEvent
from PySide6.QtWidgets import (
    QBoxLayout,
    QHBoxLayout,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from app import units
from app.engine.model import EngineState, EngineStateChanged
from app.engine.protocol import Loaded
from app.errors import AppError
from app.events import WaysOutFound
from app.gguf.model import ModelLayout
from app.hardware.model import HardwareReport, HardwareSampled
from app.plan.model import LoadPlan
from ui.launcher.machine_strip import MachineStrip
from ui.launcher.options_column import OptionsColumn
from ui.launcher.outcome import Outcome
from ui.launcher.plan_card import PlanCard
from ui.launcher.status_line import StatusLine
from ui.widgets.labels import button, frame, label
from ui.widgets.ways_panel import WaysPanel

FOLD_PX = 1100 - 88
"""Width of the page, rail aside, below which the side column goes under the chart."""
SIDE_PX = 288
_READY = (EngineState.READY, EngineState.PREFILL, EngineState.GENERATING)


class LauncherView(QWidget):
    """Signals: what the person asks for."""

    primary_clicked = Signal()
    unload_clicked = Signal()
    stop_clicked = Signal()
    choose_clicked = Signal()
    split_clicked = Signal()
    confirm_clicked = Signal()
    refresh_clicked = Signal()
    diagnostics_clicked = Signal()
    file_dropped = Signal(str)
    context_chosen = Signal(int)
    kv_type_chosen = Signal(str)
    remedy_chosen = Signal(object)
    way_chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAcceptDrops(True)
        self._loaded: Loaded | None = None
        self._plan: LoadPlan | None = None
        self._layout: ModelLayout | None = None
        self._state = EngineState.STOPPED
        self._current = True
        self._ways = WaysOutFound()
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        self.area = QScrollArea()
        self.area.setWidgetResizable(True)
        content = QWidget()
        self.area.setWidget(content)
        outer.addWidget(self.area, 1)
        page = QVBoxLayout(content)
        page.setContentsMargins(32, 20, 32, 8)
        page.setSpacing(8)
        self._build_machine(page)
        self._build_model(page)
        self._build_plan(page)
        page.addStretch(1)
        self._build_footer(outer)

    def _build_machine(self, page: QVBoxLayout) -> None:
        row = QHBoxLayout()
        row.addWidget(label("This machine", "section"))
        row.addStretch(1)
        self._facts = label("Looking at the machine", "muted")
        row.addWidget(self._facts)
        row.addSpacing(12)
        for words, signal in (
            ("Refresh", self.refresh_clicked),
            ("Copy diagnostics", self.diagnostics_clicked),
        ):
            link = button(words, "link")
            link.clicked.connect(signal)
            row.addWidget(link)
            row.addSpacing(4)
        page.addLayout(row)
        self.strip = MachineStrip()
        self.strip.setMinimumHeight(100)
        page.addWidget(self.strip)
        self._notices = label("", "muted", wrap=True)
        self._notices.hide()
        page.addWidget(self._notices)
        page.addSpacing(8)

    def _build_model(self, page: QVBoxLayout) -> None:
        row = QHBoxLayout()
        self._title = label("No model yet", "title", elide=True)
        row.addWidget(self._title, 1)
        choose = button("Change model")
        choose.clicked.connect(self.choose_clicked)
        row.addWidget(choose)
        page.addLayout(row)
        self._subtitle = label("", "body-muted", wrap=True)
        page.addWidget(self._subtitle)
        page.addSpacing(4)
        self.trouble = WaysPanel()
        self.trouble.dismissed.connect(lambda: self.set_ways(WaysOutFound()))
        self.trouble.chosen.connect(lambda number: self.way_chosen.emit(self._ways.ways[number]))
        page.addWidget(self.trouble)
        self.outcome = Outcome()
        self.outcome.remedy_chosen.connect(self.remedy_chosen)
        page.addWidget(self.outcome)
        page.addSpacing(8)

    def _build_plan(self, page: QVBoxLayout) -> None:
        self._columns = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._columns.setSpacing(32)
        self.card = PlanCard()
        self.card.split_clicked.connect(self.split_clicked)
        self.card.confirm_clicked.connect(self.confirm_clicked)
        card = QVBoxLayout()
        card.addWidget(self.card)
        card.addStretch(1)
        self._columns.addLayout(card, 1)
        self._options = OptionsColumn()
        self._options.context_chosen.connect(self.context_chosen)
        self._options.kv_type_chosen.connect(self.kv_type_chosen)
        self._columns.addWidget(self._options)
        page.addLayout(self._columns)

    def _build_footer(self, outer: QVBoxLayout) -> None:
        outer.addWidget(frame("rule"))
        self.status = StatusLine()
        self.status.setContentsMargins(32, 12, 32, 12)
        self.status.stop_clicked.connect(self.stop_clicked)
        self.status.split_clicked.connect(self.split_clicked)
        self._status = self.status.label
        self._unload = button("Unload")
        self._unload.setToolTip(
            "Frees all its memory. The next question in the chat loads it again."
        )
        self._unload.clicked.connect(self.unload_clicked)
        self._unload.hide()
        self.status.foot.addWidget(self._unload)
        self._primary = button("Load", "primary", big=True)
        self._primary.setFixedWidth(SIDE_PX)
        self._primary.setEnabled(False)
        self._primary.clicked.connect(self.primary_clicked)
        self.status.foot.addWidget(self._primary)
        outer.addWidget(self.status)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """A narrow window has the side column under the chart."""
        super().resizeEvent(event)
        narrow = self.width() < FOLD_PX
        direction = QBoxLayout.Direction
        self._columns.setDirection(direction.TopToBottom if narrow else direction.LeftToRight)
        self._columns.setSpacing(16 if narrow else 32)
        self._options.setMinimumWidth(0 if narrow else SIDE_PX)
        self._options.setMaximumWidth(16_777_215 if narrow else SIDE_PX)

    # --- values ---------------------------------------------------------------

    def set_report(self, report: HardwareReport) -> None:
        """Show the machine."""
        memory = units.format_memory
        cards = sum(1 for device in report.devices if device.endpoint is None)
        remote = len(report.devices) - cards
        facts = [f"{cards} {_plural(cards, 'card')}"] if cards else []
        facts += [f"{remote} RPC {_plural(remote, 'device')}"] if remote else []
        facts += [] if report.devices else ["no GPU"]
        facts += [f"{memory(report.memory.total_bytes)} RAM"]
        drivers = sorted({d.driver_version for d in report.devices if d.driver_version})
        facts += [f"driver {', '.join(drivers)}"] if drivers else []
        self._facts.setText("   ".join(facts))
        self.strip.set_report(report)
        self._options.set_report(report)
        notices = [f"{notice.title} {notice.hint}".strip() for notice in report.notices]
        notices += [
            f"{d.support.reason} {d.support.remedy}" for d in report.devices if d.support.reason
        ]
        self._notices.setText("\n".join(notices))
        self._notices.setVisible(bool(notices))

    def set_sample(self, sample: HardwareSampled) -> None:
        """Show live values."""
        self.strip.set_sample(sample)

    def set_layout_of(self, layout: ModelLayout) -> None:
        """Show the model."""
        self._layout = layout
        self._title.setText(layout.name)
        count = layout.parameter_count
        size = f"{count / 1e9:,.1f} billion" if count >= 1e9 else f"{count / 1e6:,.0f} million"
        parts = [
            f"{size} parameters",
            f"{layout.context_length:,}-token context",
            layout.files[0].name,
        ]
        self._subtitle.setText(" · ".join(parts))
        self._options.set_layout_of(layout)

    def set_plan(self, plan: LoadPlan, *, current: bool) -> None:
        """Show the plan; `current` is False if another one is loaded than this."""
        self._plan, self._current = plan, current
        self.outcome.set_plan(plan, self._layout)
        self._options.set_plan(plan)
        self._draw()
        self._update_primary()

    def set_ways(self, found: WaysOutFound) -> None:
        """What is wrong and what can be done about it; an empty one ends it."""
        self._ways = found
        self.outcome.show_remedies(not found.ways)
        if not found.sentence:
            self.trouble.dismiss()
            return
        ways = [(way.title, way.effect) for way in found.ways]
        state = "ok" if found.good else "error"
        self.trouble.show_ways(found.sentence, found.detail, ways, state=state)
        if not found.good:
            self.status.say("")

    def set_pending(self) -> None:
        """Another plan is being worked out; until then the old one is shown."""
        self._options.set_pending()

    def set_loaded(self, loaded: Loaded | None) -> None:
        """Show what the model really takes, beside the plan."""
        self._loaded = loaded
        self._draw()

    def _draw(self) -> None:
        if self._plan is not None:
            self.card.set_plan(self._plan, self._loaded if self._current else None)

    def set_engine(self, event: EngineStateChanged) -> None:
        """Show what the engine does, and what the button would do now."""
        self._state = event.state
        self.status.set_engine(event)
        self._update_primary()

    def _update_primary(self) -> None:
        loading = self._state in (EngineState.LOADING, EngineState.STARTING)
        ready = self._state in _READY
        words = "Reload" if self._state is EngineState.CRASHED else "Load"
        if loading:
            words = "Cancel"
        elif ready:
            words = "Open chat" if self._current else "Reload with this plan"
        self._primary.setText(words)
        self._unload.setVisible(ready)
        fits = self._plan is not None and self._plan.runs
        self._primary.setEnabled(loading or fits or (ready and self._current))
        self._primary.setToolTip("" if fits or self._plan is None else self._plan.sentence)

    def show_error(self, error: AppError) -> None:
        """One sentence and the way out, where the eye is."""
        self.card.show_failure()
        if self._plan is not None:
            self._options.set_plan(self._plan)
        self.status.say(str(error), error=True)
        self._update_primary()

    def show_alarm(self, error: AppError) -> None:
        """Something is wrong with what is loaded, and works all the same."""
        self.status.alarm.show_error(str(error))

    def show_notice(self, sentence: str) -> None:
        """One line that tells something."""
        self._notices.setText(sentence)
        self._notices.show()

    def copy_diagnostics(self, text: str) -> None:
        """Put `text` on the clipboard and say so."""
        QGuiApplication.clipboard().setText(text)
        self.status.say("The diagnostics are on the clipboard.")

    # --- dropped files --------------------------------------------------------

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take GGUF files."""
        if any(url.toLocalFile().lower().endswith(".gguf") for url in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Choose the dropped file."""
        for url in event.mimeData().urls():
            if Path(url.toLocalFile()).suffix.lower() == ".gguf":
                self.file_dropped.emit(url.toLocalFile())
                return


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
