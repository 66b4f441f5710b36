"""Who decides about the split: tiles, each with what would come of it."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from app import units
from app.plan.model import LoadPlan
from app.plan.tensor_parallel import WARNING
from app.settings.model import SplitMode
from ui.widgets.labels import label, set_state

MODES = {
    SplitMode.AUTOMATIC: "Automatic",
    SplitMode.EVEN: "Even",
    SplitMode.BY_MEMORY: "By memory",
    SplitMode.MANUAL: "By hand",
    SplitMode.TENSOR: "Tensors",
}
EXPERIMENTAL = "Experimental"


class ModeTiles(QWidget):
    """Signals: chosen, when a person chose another tile."""

    chosen = Signal()

    def __init__(self, parent: QWidget | None = None, *, several: bool = True) -> None:
        """Tensors are split over `several` devices, or not at all."""
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        self._group = QButtonGroup(self)
        self._tiles: dict[SplitMode, QPushButton] = {}
        self._notes = {mode: label("", "muted", elide=True) for mode in MODES}
        for mode, words in MODES.items():
            tile = QPushButton()
            tile.setProperty("kind", "tile")
            tile.setCheckable(True)
            tile.setAccessibleName(words)
            column = QVBoxLayout(tile)
            column.setContentsMargins(14, 8, 14, 8)
            column.setSpacing(2)
            for part in (label(words, "strong"), self._notes[mode]):
                part.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
                column.addWidget(part)
            tile.clicked.connect(self.chosen)
            self._group.addButton(tile)
            self._tiles[mode] = tile
            row.addWidget(tile, 1)
        self._tiles[SplitMode.TENSOR].setVisible(several)

    @property
    def mode(self) -> SplitMode:
        """The chosen mode."""
        chosen = (mode for mode, tile in self._tiles.items() if tile.isChecked())
        return next(chosen, SplitMode.AUTOMATIC)

    def set_mode(self, mode: SplitMode) -> None:
        """Choose without a signal."""
        self._tiles[mode].setChecked(True)

    def set_outcome(self, mode: SplitMode, plan: LoadPlan | None) -> None:
        """Say what would come of a mode."""
        note = self._notes[mode]
        words, state = _outcome(plan)
        tip = words
        if mode is SplitMode.TENSOR and plan is not None:
            words = words.replace("Fullest device", f"{EXPERIMENTAL},")
            tip = WARNING
            allowed = plan.request.tensor_parallel
            if not allowed:
                words, tip, state = "Not possible here", plan.note, ""
            self._tiles[mode].setEnabled(allowed)
        note.setText(words)
        note.setToolTip(tip)
        set_state(note, state)
        self._tiles[mode].setToolTip(tip)
        self._tiles[mode].setAccessibleDescription(tip if mode is SplitMode.TENSOR else words)


def _outcome(plan: LoadPlan | None) -> tuple[str, str]:
    if plan is None:
        return "As you set them", ""
    used = [share for share in plan.devices if share.layer_count]
    if not plan.runs:
        short = min(used, key=lambda share: share.left_bytes, default=None)
        if short is None or short.left_bytes >= 0:
            return "✕ Main memory is too small", "error"
        need = units.format_memory(short.model_bytes + short.reserve_bytes)
        return f"✕ {short.device.label} needs {need}", "error"
    if not used:
        return "All on the CPU", ""
    fullest = units.format_memory(max(share.model_bytes for share in used))
    rest = plan.block_count + 1 - plan.gpu_layers
    return f"Fullest device {fullest}" + (f", {rest} layers on the CPU" if rest else ""), ""
