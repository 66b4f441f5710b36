"""The launcher: this machine, the chosen model, its plan as one bar per device, one primary button."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLayoutItem,
    QProgressBar,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from app import units
from app.engine.model import EngineState, EngineStateChanged
from app.engine.protocol import Loaded
from app.errors import AppError
from app.gguf.model import ModelLayout
from app.hardware.model import HardwareReport
from app.plan.model import DevicePlan, HostPlan, LoadPlan, Verdict
from app.plan.text import VERDICT_WORDS, layer_range
from ui.widgets.labels import button, frame, label, set_state
from ui.widgets.legend import Legend
from ui.widgets.memory_bar import MemoryBar, MemoryBarValues

STAGES = {
    "reading": "Reading the model",
    "allocating": "Allocating memory",
    "warming_up": "Testing",
}
UNEVEN = 1.5
_STATES = {
    Verdict.FITS: "ok",
    Verdict.CPU_ONLY: "ok",
    Verdict.PARTLY: "warn",
    Verdict.TOO_LARGE: "error",
}


class LauncherView(QWidget):
    """Signals: what the person asks for."""

    primary_clicked = Signal()
    choose_clicked = Signal()
    split_clicked = Signal()
    refresh_clicked = Signal()
    file_dropped = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAcceptDrops(True)
        self._loaded: Loaded | None = None
        self._plan: LoadPlan | None = None
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        content = QWidget()
        scroll.setWidget(content)
        outer.addWidget(scroll, 1)
        page = QVBoxLayout(content)
        page.setContentsMargins(32, 24, 32, 12)
        page.setSpacing(12)
        self._build_machine(page)
        self._build_model(page)
        self._build_chart(page)
        page.addStretch(1)
        self._build_footer(outer)

    def _build_machine(self, page: QVBoxLayout) -> None:
        row = QHBoxLayout()
        row.addWidget(label("This machine", "section"))
        row.addStretch(1)
        self._facts = label("Looking at the machine", "muted")
        row.addWidget(self._facts)
        refresh = button("Refresh", "link")
        refresh.clicked.connect(self.refresh_clicked)
        row.addSpacing(12)
        row.addWidget(refresh)
        page.addLayout(row)
        card = frame("card")
        self._strip = QGridLayout(card)
        self._strip.setContentsMargins(16, 12, 16, 12)
        self._strip.setHorizontalSpacing(24)
        page.addWidget(card)
        self._notices = label("", "muted", wrap=True)
        self._notices.hide()
        page.addWidget(self._notices)
        page.addSpacing(8)

    def _build_model(self, page: QVBoxLayout) -> None:
        row = QHBoxLayout()
        self._title = label("No model yet", "title")
        row.addWidget(self._title)
        row.addStretch(1)
        choose = button("Choose file…")
        choose.clicked.connect(self.choose_clicked)
        row.addWidget(choose)
        page.addLayout(row)
        self._subtitle = label("", "body-muted", wrap=True)
        page.addWidget(self._subtitle)
        self._verdict = label("", "lead", wrap=True)
        page.addWidget(self._verdict)
        self._hint = label("", "body-muted", wrap=True)
        self._hint.hide()
        page.addWidget(self._hint)

    def _build_chart(self, page: QVBoxLayout) -> None:
        card = frame("card")
        column = QVBoxLayout(card)
        column.setContentsMargins(20, 16, 20, 16)
        head = QHBoxLayout()
        head.addWidget(label("Memory on each device", "strong"))
        head.addStretch(1)
        head.addWidget(Legend())
        column.addLayout(head)
        self._chart = QGridLayout()
        self._chart.setHorizontalSpacing(16)
        self._chart.setVerticalSpacing(10)
        self._chart.setColumnStretch(2, 1)
        column.addLayout(self._chart)
        column.addWidget(frame("rule"))
        foot = QHBoxLayout()
        self._footnote = label("", "muted", wrap=True)
        foot.addWidget(self._footnote, 1)
        split = button("Adjust split", "link")
        split.clicked.connect(self.split_clicked)
        foot.addWidget(split)
        column.addLayout(foot)
        page.addWidget(card)

    def _build_footer(self, outer: QVBoxLayout) -> None:
        outer.addWidget(frame("rule"))
        foot = QHBoxLayout()
        foot.setContentsMargins(32, 12, 32, 12)
        self._status = label("", "body-muted", wrap=True)
        foot.addWidget(self._status, 1)
        self._progress = QProgressBar()
        self._progress.setRange(0, 100)
        self._progress.setFixedSize(160, 6)
        self._progress.setTextVisible(False)
        self._progress.hide()
        foot.addWidget(self._progress)
        foot.addSpacing(12)
        self._primary = button("Load", "primary", big=True)
        self._primary.setMinimumWidth(160)
        self._primary.setEnabled(False)
        self._primary.clicked.connect(self.primary_clicked)
        foot.addWidget(self._primary)
        outer.addLayout(foot)

    # --- values ---------------------------------------------------------------

    def set_report(self, report: HardwareReport) -> None:
        """Show the machine."""
        memory = units.format_memory
        facts = [f"{len(report.devices)} GPUs and remote devices"] if report.devices else ["no GPU"]
        facts += [f"{memory(report.memory.total_bytes)} RAM"]
        facts += [f"{units.format_file_size(disk.free_bytes)} disk free" for disk in report.disks]
        self._facts.setText("   ".join(facts))
        _clear(self._strip)
        cells = [
            (
                d.label,
                d.name,
                d.memory_total_bytes,
                d.memory_free_bytes,
                d.support.engine_name or "not usable",
            )
            for d in report.devices
        ]
        ram = report.memory
        cpu = report.cpu
        cells.append(
            ("CPU", cpu.name, ram.total_bytes, ram.available_bytes, f"{cpu.physical_cores} cores")
        )
        for index, (short, name, total, free, more) in enumerate(cells):
            cell = QVBoxLayout()
            cell.setSpacing(4)
            head = QHBoxLayout()
            head.addWidget(label(name, "strong"), 1)
            head.addWidget(label(short, "muted"))
            cell.addLayout(head)
            if total is not None and free is not None:
                bar = MemoryBar()
                bar.set_values(MemoryBarValues(total=total, others=total - free))
                cell.addWidget(bar)
                cell.addWidget(label(f"{memory(total - free)} of {memory(total)} in use", "small"))
            cell.addWidget(label(more, "muted"))
            self._strip.addLayout(cell, index // 4, index % 4)
        notices = [f"{notice.title} {notice.hint}".strip() for notice in report.notices]
        notices += [
            f"{d.support.reason} {d.support.remedy}" for d in report.devices if d.support.reason
        ]
        self._notices.setText("\n".join(notices))
        self._notices.setVisible(bool(notices))

    def set_layout_of(self, layout: ModelLayout) -> None:
        """Show the model."""
        self._title.setText(layout.name)
        parts = [
            f"{layout.parameter_count / 1e9:,.1f} billion parameters",
            f"{layout.context_length:,}-token context",
            units.format_file_size(layout.file_size_bytes),
            layout.files[0].name,
        ]
        self._subtitle.setText(" · ".join(parts))

    def set_plan(self, plan: LoadPlan) -> None:
        """Show the plan: verdict, chart."""
        self._plan = plan
        self._verdict.setText(f"{VERDICT_WORDS[plan.verdict]} {plan.sentence}")
        set_state(self._verdict, _STATES[plan.verdict])
        self._hint.setText(plan.hint)
        self._hint.setVisible(bool(plan.hint))
        self._draw()

    def set_loaded(self, loaded: Loaded | None) -> None:
        """Show what the model really takes, beside the plan."""
        self._loaded = loaded
        self._draw()

    def _draw(self) -> None:
        plan = self._plan
        if plan is None:
            return
        _clear(self._chart)
        for column, text in enumerate(("Device", "Layers", "", "Planned", "Actual", "Left")):
            head = label(text, "muted")
            if column > 2:
                head.setAlignment(Qt.AlignmentFlag.AlignRight)
            self._chart.addWidget(head, 0, column)
        actual = {m.device: m for m in self._loaded.memory} if self._loaded else {}
        totals = [share.device.total_bytes for share in plan.devices]
        scale = max([*totals, plan.host.host.total_bytes if not totals else 0])
        for row, share in enumerate(plan.devices, start=1):
            found = actual.get(share.device.engine_name)
            used = (
                found.weights_bytes + found.kv_cache_bytes + found.compute_bytes if found else None
            )
            fullest = share.device.id == plan.bottleneck
            name = share.device.label + (" (fullest)" if fullest and len(plan.devices) > 1 else "")
            device = share.device
            values = _bar(share, device.total_bytes, device.others_bytes, used, scale)
            self._row(row, name, layer_range(plan, share), values, share, fullest=fullest)
        host = plan.host
        found = actual.get("CPU")
        used = found.weights_bytes + found.kv_cache_bytes + found.compute_bytes if found else None
        others = host.host.total_bytes - host.host.available_bytes
        values = _bar(host, host.host.total_bytes, others, used, scale)
        layers = (
            f"{host.layer_count} of {plan.block_count + 1}" if host.layer_count else "input only"
        )
        self._row(len(plan.devices) + 1, "Main memory", layers, values, host, fullest=False)
        empty = sum(1 for size in plan.layer_sizes if size == 0)
        sizes = [size for size in plan.layer_sizes[:-1] if size]
        ratio = max(sizes) / min(sizes) if sizes else 1
        notes = [f"Layers differ up to {ratio:.0f} times in size."] if ratio >= UNEVEN else []
        notes += [f"{empty} of {plan.block_count} layers hold no weights."] if empty else []
        notes += [f"Up to {plan.max_context:,} tokens fit."] if plan.max_context else []
        self._footnote.setText(" ".join(notes))

    def _row(
        self,
        row: int,
        name: str,
        layers: str,
        values: MemoryBarValues,
        share: DevicePlan | HostPlan,
        *,
        fullest: bool,
    ) -> None:
        bar = MemoryBar()
        bar.set_values(values)
        memory = units.format_memory
        actual = memory(values.in_use) if values.in_use is not None else "–"
        self._chart.addWidget(label(name, "strong" if fullest else ""), row, 0)
        self._chart.addWidget(label(layers, "muted"), row, 1)
        self._chart.addWidget(bar, row, 2)
        numbers = (memory(share.model_bytes), actual, memory(share.left_bytes))
        for column, text in enumerate(numbers, start=3):
            number = label(text, "strong" if fullest else "")
            number.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            if share.left_bytes < 0:
                set_state(number, "error")
            self._chart.addWidget(number, row, column)

    def set_engine(self, event: EngineStateChanged) -> None:
        """Show what the engine does, and what the button would do now."""
        loading = event.state in (EngineState.LOADING, EngineState.STARTING)
        words = {
            EngineState.STOPPED: "",
            EngineState.STARTING: "Starting the engine",
            EngineState.LOADING: STAGES.get(event.stage, "Loading"),
            EngineState.CRASHED: str(event.error or "The engine stopped."),
        }
        text = words.get(event.state, "Loaded and ready.")
        if event.error is not None:
            text = str(event.error)
        elif loading and event.fraction is not None:
            text += f", {units.format_percent(event.fraction)}"
        self._status.setText(text)
        set_state(self._status, "error" if event.error else "")
        self._progress.setVisible(loading)
        self._progress.setValue(round(100 * (event.fraction or 0)))
        ready = event.state in (EngineState.READY, EngineState.PREFILL, EngineState.GENERATING)
        self._primary.setText("Cancel" if loading else "Open chat" if ready else "Load")
        self._primary.setEnabled(self._plan is not None)

    def show_error(self, error: AppError) -> None:
        """One sentence and the way out, where the eye is."""
        self._status.setText(str(error))
        set_state(self._status, "error")
        self._primary.setEnabled(self._plan is not None)

    def show_notice(self, sentence: str) -> None:
        """One line that tells something."""
        self._notices.setText(sentence)
        self._notices.show()

    # --- dropped files --------------------------------------------------------

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take GGUF files."""
        if any(url.toLocalFile().endswith(".gguf") for url in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Choose the dropped file."""
        for url in event.mimeData().urls():
            if Path(url.toLocalFile()).suffix == ".gguf":
                self.file_dropped.emit(url.toLocalFile())
                return


def _bar(
    share: DevicePlan | HostPlan, total: int, others: int, used: int | None, scale: int
) -> MemoryBarValues:
    return MemoryBarValues(
        total=total,
        weights=share.weights_bytes,
        kv_cache=share.kv_cache_bytes,
        compute=share.compute_bytes,
        reserve=share.reserve_bytes,
        others=others,
        in_use=used,
        scale=max(scale, total),
    )


def _clear(grid: QGridLayout) -> None:
    """Remove all that a grid holds, layouts within it too."""

    def remove(item: QLayoutItem | None) -> None:
        if item is None:
            return
        widget, inner = item.widget(), item.layout()
        if widget is not None:
            widget.hide()
            widget.deleteLater()
        elif inner is not None:
            while inner.count():
                remove(inner.takeAt(0))

    while grid.count():
        remove(grid.takeAt(0))
