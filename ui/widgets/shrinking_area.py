"""Lines that come and go: as high as they are, until there is no room; then they scroll."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, QSize, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

GAP_PX = 6
LEAST_PX = 64


class ShrinkingArea(QScrollArea):
    """Widgets go into `lines`, the most important first: what is below may have to be scrolled to."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # its lines take it
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        content = QWidget()
        self.lines = QVBoxLayout(content)
        self.lines.setContentsMargins(0, 0, 0, GAP_PX)
        self.lines.setSpacing(GAP_PX)
        self.setWidget(content)
        content.installEventFilter(self)
        self._fit()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """A line came, went, or says something longer."""
        if event.type() is QEvent.Type.LayoutRequest:
            self._fit()
        return super().eventFilter(watched, event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Texts break elsewhere."""
        super().resizeEvent(event)
        self._fit()

    def sizeHint(self) -> QSize:
        """All lines."""
        return QSize(super().sizeHint().width(), self.maximumHeight())

    def _fit(self) -> None:
        height = 0 if self.lines.isEmpty() else self.lines.totalHeightForWidth(self.width())
        if height < 0:
            height = self.lines.totalSizeHint().height()
        if height != self.maximumHeight():
            self.setMinimumHeight(min(height, LEAST_PX))
            self.setMaximumHeight(height)
            self.updateGeometry()
        # Not by itself: a bar makes lines narrower and thereby higher, so that it would stay.
        policy = Qt.ScrollBarPolicy
        fits = self.height() >= height
        self.setVerticalScrollBarPolicy(
            policy.ScrollBarAlwaysOff if fits else policy.ScrollBarAsNeeded
        )
