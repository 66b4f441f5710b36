"""The model on top of the chat: its name, whether it is loaded, and a menu of what can be done with it."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QAction, QColor, QFont, QFontMetrics, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QMenu, QWidget

from app import units
from app.catalog.library import LocalModel, State
from app.events import LibraryScanned, SnapshotMeasured
from app.plan.model import Verdict
from ui import theme

HEIGHT_PX, DOT_PX, PAD_PX, GAP_PX, CHEVRON_PX = 34, 7, 12, 8, 16
MOST_TEXT_PX = 340
MOST_MODELS = 12
"""More of them are on their own page."""
SAVE, SAVE_UNLOAD = "Save the KV cache", "Save the KV cache and unload"


class ModelButton(QAbstractButton):
    """Signals: what the person asks for; `menu_opened` so that the KV cache is measured."""

    load_clicked = Signal()
    unload_clicked = Signal()
    save_clicked = Signal()
    save_unload_clicked = Signal()
    plan_clicked = Signal()
    model_chosen = Signal(str)
    models_clicked = Signal()
    menu_opened = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name = self._words = ""
        self._state = ""
        self._ready = self._busy = False
        self._path = ""
        self._library: LibraryScanned | None = None
        self.models: list[QAction] = []
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.menu = QMenu(self)
        self.menu.setToolTipsVisible(True)
        self._load = self.menu.addAction("Load", self.load_clicked.emit)
        self._unload = self.menu.addAction("Unload", self.unload_clicked.emit)
        self._unload.setToolTip("Frees all its memory. The next question loads it again.")
        self._save = self.menu.addAction(SAVE, self.save_clicked.emit)
        self._save_unload = self.menu.addAction(SAVE_UNLOAD, self.save_unload_clicked.emit)
        self.menu.addSeparator()
        self.menu.addAction("Show the plan", self.plan_clicked.emit)
        self._more = self.menu.addAction("More models", self.models_clicked.emit)
        self.clicked.connect(self._open)
        theme.manager().changed.connect(self.update)

    def set_model(self, name: str, path: str) -> None:
        """Name the model, and its first file."""
        self._name, self._path = name, path
        self._list_models()
        self._describe()

    def set_library(self, library: LibraryScanned) -> None:
        """What is on this machine; each model is one click away."""
        self._library = library
        self._list_models()

    def _list_models(self) -> None:
        """Those on this machine stand first, as in every program of this kind."""
        for action in self.models:
            self.menu.removeAction(action)
            action.deleteLater()
        found = self._library.library.models if self._library else ()
        whole = [model for model in found if model.state is State.COMPLETE]
        self.models = [self._action(model) for model in whole[:MOST_MODELS]]
        self.menu.insertActions(self._load, self.models)
        if self.models:
            self.models.append(self.menu.insertSeparator(self._load))
        rest = len(whole) - MOST_MODELS
        self._more.setText(f"{rest:,} more models" if rest > 0 else "More models")

    def _action(self, model: LocalModel) -> QAction:
        path = str(model.files[0])
        size = units.format_file_size(model.size_bytes)
        facts = ", ".join(part for part in (model.quantization, size) if part)
        action = QAction(f"{model.name}   {facts}".replace("&", "&&"), self)
        action.triggered.connect(lambda: self.model_chosen.emit(path))
        action.setCheckable(True)
        action.setChecked(path == self._path)
        fit = self._library.fits.get(path) if self._library else None
        fits = fit is None or fit.verdict is not Verdict.TOO_LARGE
        action.setEnabled(fits and path != self._path)
        if path == self._path:
            action.setToolTip("This one is chosen.")
        else:
            does = "Loads it in place of the present one; the chat stays."
            action.setToolTip(does if fits else "It does not fit on this machine.")
        return action

    def set_busy(self, busy: bool) -> None:
        """Whether an answer runs, whose KV cache cannot be saved yet."""
        self._busy = busy
        self._measured(None)

    def set_state(self, words: str, *, ready: bool, error: bool) -> None:
        """Say what the engine does, and whether a model is `ready`; the menu follows."""
        self._words = words
        self._state = "error" if error else "ok" if ready else ""
        self._ready = ready
        self._load.setVisible(not ready)
        self._load.setText("Load again" if error else "Load")
        for action in (self._unload, self._save, self._save_unload):
            action.setVisible(ready)
        self._measured(None)
        self._describe()

    def set_measured(self, size: SnapshotMeasured) -> None:
        """The KV cache's size stands in the menu before it is saved."""
        self._measured(size)

    def _measured(self, size: SnapshotMeasured | None) -> None:
        worth = size is not None and size.tokens > 0
        words, why = "", "" if worth else "The KV cache is empty, or the model does not rest."
        if size is not None and worth:
            words = f"   {units.format_file_size(size.size_bytes)}, {size.tokens:,} tokens"
            room = min(size.limit_bytes, size.free_bytes)
            if size.size_bytes > room:
                why = f"There is room for {units.format_file_size(room)}."
        for action, text in ((self._save, SAVE), (self._save_unload, SAVE_UNLOAD)):
            action.setText(text + words)
            action.setEnabled(worth and not why)
            action.setToolTip(why or "The next answer then need not read the whole chat again.")

    def _open(self) -> None:
        if self._ready and not self._busy:
            self.menu_opened.emit()
        self.menu.popup(self.mapToGlobal(self.rect().bottomLeft()))

    def _describe(self) -> None:
        self.setAccessibleName(f"{self._name}, {self._words}")
        self.setToolTip(self._words)
        self.updateGeometry()
        self.update()

    # --- its look ---------------------------------------------------------------

    def _fonts(self) -> tuple[QFont, QFont]:
        strong = QFont(self.font())
        strong.setWeight(QFont.Weight.DemiBold)
        return strong, self.font()

    def _texts(self) -> list[tuple[str, QFont, int]]:
        """Name and state, each with its font and width."""
        found = []
        for text, font in zip((self._name, self._words), self._fonts(), strict=True):
            metrics = QFontMetrics(font)
            short = metrics.elidedText(text, Qt.TextElideMode.ElideRight, MOST_TEXT_PX)
            found.append((short, font, metrics.horizontalAdvance(short)))
        return found

    def sizeHint(self) -> QSize:
        """As wide as name and state."""
        widths = sum(width for _, _, width in self._texts())
        return QSize(widths + DOT_PX + CHEVRON_PX + 3 * GAP_PX + 2 * PAD_PX, HEIGHT_PX)

    def minimumSizeHint(self) -> QSize:
        """The same."""
        return self.sizeHint()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Edge, dot, name, state, chevron."""
        look = theme.current()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = QRectF(self.rect()).adjusted(1, 1, -1, -1)
        focus = self.hasFocus()
        painter.setPen(QPen(QColor(look.accent if focus else look.line), 2 if focus else 1))
        painter.setBrush(QColor(look.alt if self.underMouse() else look.surface))
        painter.drawRoundedRect(box, 8, 8)
        colors = {"ok": look.ok, "error": look.error}
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colors.get(self._state, look.muted)))
        middle = self.height() / 2
        painter.drawEllipse(QRectF(PAD_PX, middle - DOT_PX / 2, DOT_PX, DOT_PX))
        x = float(PAD_PX + DOT_PX + GAP_PX)
        colors_of_texts = (look.text, colors.get(self._state, look.muted))
        for (text, font, width), color in zip(self._texts(), colors_of_texts, strict=True):
            painter.setFont(font)
            painter.setPen(QColor(color))
            painter.drawText(
                QRectF(x, 0, width + 2, self.height()), Qt.AlignmentFlag.AlignVCenter, text
            )
            x += width + GAP_PX
        picture = theme.pixmap("chevron-down", look.muted, CHEVRON_PX, self.devicePixelRatioF())
        painter.drawPixmap(round(x), round(middle - CHEVRON_PX / 2), picture)
        painter.end()
