"""Painted parts: how far a file is, how fast it was, what the disk holds."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui import theme
from ui.theme.tokens import RADIUS_BAR

HISTORY_S = 600.0
"""Ten minutes of speed."""
STEP_S = 1.0


class ShardBar(QWidget):
    """Solid is on disk and hashed, mid blue is on disk and not hashed yet."""

    def __init__(self, height: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._size, self._written, self._hashed = 1, 0, 0
        self.setFixedHeight(height)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.manager().changed.connect(self.update)

    def set_values(self, name: str, size: int, written: int, hashed: int) -> None:
        """Bytes of a whole, on disk, and of those in the checksum."""
        self._size, self._written, self._hashed = max(1, size), written, min(hashed, written)
        self.setAccessibleName(name)
        self.setAccessibleDescription(
            f"{100 * written / self._size:.0f} % on disk, {100 * self._hashed / self._size:.0f} % hashed"
        )
        self.update()

    def sizeHint(self) -> QSize:
        """As wide as there is room."""
        return QSize(200, self.height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Track, on disk, hashed."""
        look, wide = theme.current(), self.width()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        clip = QPainterPath()
        clip.addRoundedRect(QRectF(0, 0, wide, self.height()), RADIUS_BAR, RADIUS_BAR)
        painter.setClipPath(clip)
        painter.fillRect(self.rect(), QColor(look.track))
        for part, color in ((self._written, look.kv), (self._hashed, look.weights)):
            painter.fillRect(QRectF(0, 0, wide * part / self._size, self.height()), QColor(color))
        painter.end()


class SpeedHistory:
    """Speeds of the last ten minutes, one a second."""

    def __init__(self) -> None:
        """Empty."""
        self.samples: collections.deque[tuple[float, float]] = collections.deque()

    def add(self, now_s: float, bytes_per_s: float) -> None:
        """A speed; one within the same second replaces the one before."""
        if self.samples and now_s - self.samples[-1][0] < STEP_S:
            self.samples[-1] = (self.samples[-1][0], bytes_per_s)
        else:
            self.samples.append((now_s, bytes_per_s))
        while now_s - self.samples[0][0] > HISTORY_S:
            self.samples.popleft()

    @property
    def average(self) -> float:
        """Of what is kept, in bytes/s."""
        return sum(speed for _, speed in self.samples) / max(1, len(self.samples))

    @property
    def peak(self) -> float:
        """The highest that is kept, in bytes/s."""
        return max((speed for _, speed in self.samples), default=0.0)


class Sparkline(QWidget):
    """A line over a flat fill, two faint lines, a dot for now, no axis."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._history = SpeedHistory()
        self.setFixedHeight(64)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.manager().changed.connect(self.update)

    def set_history(self, history: SpeedHistory) -> None:
        """Show these speeds."""
        self._history = history
        self.setAccessibleName(
            f"Speed: average {history.average / 1e6:.1f}, peak {history.peak / 1e6:.1f} MB/s"
        )
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """From ten minutes ago at the left to now at the right; a short history fills the width."""
        look, samples = theme.current(), self._history.samples
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        wide, high = self.width() - 5.0, self.height() - 6.0
        for part in (0.5, 1.0):
            painter.fillRect(QRectF(0, 5 + high * part, self.width(), 1), QColor(look.grid))
        if len(samples) > 1:
            start, end = samples[0][0], samples[-1][0]
            top = self._history.peak or 1.0
            points = [
                QPointF(wide * (t - start) / (end - start), 5 + high - high * speed / top * 0.94)
                for t, speed in samples
            ]
            self._curve(painter, points, 5 + high)
        painter.end()

    @staticmethod
    def _curve(painter: QPainter, points: Sequence[QPointF], bottom: float) -> None:
        look = theme.current()
        path = QPainterPath(points[0])
        for point in points[1:]:
            path.lineTo(point)
        fill = QPainterPath(path)
        fill.lineTo(points[-1].x(), bottom)
        fill.lineTo(points[0].x(), bottom)
        painter.fillPath(fill, QColor(look.accent_soft))
        painter.setPen(QPen(QColor(look.accent), 1.5))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawPath(path)
        painter.setBrush(QColor(look.accent))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.drawEllipse(points[-1], 3, 3)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiskValues:
    """Bytes of a disk: in use by others, of this download, still to come."""

    total: int
    others: int
    here: int
    coming: int


class DiskBar(QWidget):
    """A disk as one bar."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._values = DiskValues(total=1, others=0, here=0, coming=0)
        self.setFixedHeight(14)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.manager().changed.connect(self.update)

    def set_values(self, values: DiskValues) -> None:
        """Show these."""
        self._values = values
        self.setAccessibleName(
            f"Disk: {values.others / 1e9:.0f} of {values.total / 1e9:.0f} GB in use by others, "
            f"{values.coming / 1e9:.1f} GB still to come"
        )
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Others, this download, what is to come, free."""
        look, values = theme.current(), self._values
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        clip = QPainterPath()
        clip.addRoundedRect(QRectF(self.rect()), RADIUS_BAR, RADIUS_BAR)
        painter.setClipPath(clip)
        painter.fillRect(self.rect(), QColor(look.track))
        unit, x = self.width() / max(1, values.total), 0.0
        for size, color in ((values.others, look.others), (values.here, look.weights)):
            if size:
                wide = max(2.0, size * unit)
                painter.fillRect(QRectF(x, 0, wide - 1, self.height()), QColor(color))
                x += wide
        if values.coming:
            short = values.others + values.here + values.coming > values.total
            wide = min(max(3.0, values.coming * unit), self.width() - x - 1)
            painter.setPen(QPen(QColor(look.error if short else look.compute_edge), 1))
            painter.setBrush(QColor(look.compute))
            painter.drawRect(QRectF(x + 0.5, 0.5, wide - 1, self.height() - 1))
        painter.end()
