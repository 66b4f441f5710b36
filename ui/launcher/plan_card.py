"""The plan as one stacked bar per device, planned and actual."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from app import units
from app.engine.protocol import DeviceMemory, Loaded
from app.plan.model import Basis, DevicePlan, HostPlan, LoadPlan
from app.plan.text import basis
from ui.launcher.apart import TensorsApart
from ui.plan.device_grid import DeviceGrid
from ui.widgets.labels import button, frame, label, set_state
from ui.widgets.legend import Legend

UNEVEN = 1.5


class PlanCard(QFrame):
    """Signals: split_clicked, confirm_clicked."""

    split_clicked = Signal()
    confirm_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("kind", "card")
        self._plan: LoadPlan | None = None
        self._actual: dict[str, DeviceMemory] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 14)
        column.setSpacing(8)
        head = QHBoxLayout()
        head.addWidget(label("Memory on each device", "strong"))
        head.addStretch(1)
        head.addWidget(Legend())
        column.addLayout(head)
        self._grid = DeviceGrid()
        column.addLayout(self._grid)
        self.apart = TensorsApart()
        column.addWidget(self.apart)
        column.addWidget(frame("rule"))
        foot = QHBoxLayout()
        self.footnote = label("", "muted", wrap=True)
        foot.addWidget(self.footnote, 1)
        self.confirm = button("Confirm with llama.cpp", "link")
        self.confirm.setToolTip("Ask llama.cpp what each device would hold; nothing is loaded.")
        self.confirm.clicked.connect(self._ask)
        foot.addWidget(self.confirm)
        split = button("Adjust split", "link")
        split.clicked.connect(self.split_clicked)
        foot.addWidget(split)
        column.addLayout(foot)

    def _ask(self) -> None:
        self.confirm.setEnabled(False)
        self.footnote.setText("llama.cpp is asked what each device would hold.")
        self.confirm_clicked.emit()

    def show_failure(self) -> None:
        """The question could not be answered; it may be asked again."""
        self.confirm.setEnabled(True)
        if self._plan is not None:
            self.footnote.setText(_footnote(self._plan, self._actual))

    def set_plan(self, plan: LoadPlan, loaded: Loaded | None) -> None:
        """Show the plan, and beside it what the loaded model really takes."""
        self._plan = plan
        self.confirm.setEnabled(True)
        self._actual = actual = {m.device: m for m in loaded.memory} if loaded else {}
        told = plan.basis is Basis.CONFIRMED or plan.request.tensor_parallel
        self.confirm.setVisible(not told and not actual)
        self.apart.set_plan(plan)
        self._grid.set_plan(plan, actual)
        self.footnote.setText(_footnote(plan, actual))
        set_state(self.footnote, "warn" if plan.basis is Basis.ESTIMATED else "")


def _compared(plan: LoadPlan, actual: dict[str, DeviceMemory]) -> str:
    """The largest difference between the plan and what was loaded."""
    shares: dict[str, DevicePlan | HostPlan] = {s.device.engine_name: s for s in plan.devices}
    shares["CPU"] = plan.host
    worst = max(
        (m.model_bytes - shares[name].model_bytes for name, m in actual.items() if name in shares),
        key=abs,
        default=0,
    )
    if abs(worst) < units.MIB // 2:
        return "as planned on every device."
    return f"within {units.format_memory(abs(worst))} of the plan on every device."


def _footnote(plan: LoadPlan, actual: dict[str, DeviceMemory]) -> str:
    if actual:
        return f"{basis(plan)} Loaded: {_compared(plan, actual)}"
    if plan.request.tensor_parallel:
        return basis(plan)
    empty = sum(1 for size in plan.layer_sizes[:-1] if size == 0)
    sizes = [size for size in plan.layer_sizes[:-1] if size]
    ratio = max(sizes) / min(sizes) if sizes else 1
    notes = [f"Layers differ up to {ratio:.0f} times in size"] if ratio >= UNEVEN else []
    notes += [f"{empty} of {plan.block_count} hold no weights"] if empty else []
    sentence = f"{' and '.join(notes)}, so devices get unequal counts." if notes else ""
    sentence = sentence or "Every layer is placed by its own size."
    return f"{basis(plan)} {sentence}"
