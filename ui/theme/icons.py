"""Lucide icons from resources/, recoloured when loaded."""

from __future__ import annotations

import functools
from pathlib import Path

from PySide6.QtCore import QByteArray, QRectF, Qt
from PySide6.QtGui import QIcon, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

ICONS = Path(__file__).resolve().parent.parent.parent / "resources" / "icons"


@functools.lru_cache(maxsize=512)
def pixmap(name: str, color: str, size: int = 16, ratio: float = 1.0) -> QPixmap:
    """The icon `name` in `color` (`#RRGGBB`), `size` device-independent pixels square.

    Raises:
        FileNotFoundError: There is no such icon in resources/icons.
    """
    source = (ICONS / f"{name}.svg").read_text(encoding="utf-8")
    source = source.replace("currentColor", color).replace(
        'stroke-width="2"', 'stroke-width="1.75"'
    )
    image = QPixmap(round(size * ratio), round(size * ratio))
    image.fill(Qt.GlobalColor.transparent)
    painter = QPainter(image)
    QSvgRenderer(QByteArray(source.encode())).render(
        painter, QRectF(0, 0, image.width(), image.height())
    )
    painter.end()
    image.setDevicePixelRatio(ratio)
    return image


def icon(name: str, color: str, size: int = 16, disabled: str | None = None) -> QIcon:
    """The icon as a `QIcon`, sharp on screens of scale 1 and 2."""
    result = QIcon()
    for ratio in (1.0, 2.0):
        result.addPixmap(pixmap(name, color, size, ratio))
        if disabled is not None:
            result.addPixmap(pixmap(name, disabled, size, ratio), QIcon.Mode.Disabled)
    return result
