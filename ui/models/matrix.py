"""The matrix: quantizations down, contexts across, in each cell the KV cache that fits or what is missing."""

from __future__ import annotations

from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    QRectF,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QFont, QPainter, QPen, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from app import units
from app.plan.model import KvCacheType
from app.plan.overview import Cell, Overview, Row, left_bytes
from ui import theme
from ui.models import words
from ui.theme.tokens import TEXT_SMALL
from ui.widgets.timers import after_rest
from ui.widgets.verdict import ICONS

ROW_PX, HEAD_PX = 31, 30
FIRST = 5
"""The first column that is a context."""
HEADS = ("Quantization", "GB", "Bits", "On this machine", "Tokens/s")
WIDTHS = (118, 62, 50, 148, 84)
WIDE_PX = 90
TYPING_MS = 120
"""After so long without another key the chosen cell is planned."""
Index = QModelIndex | QPersistentModelIndex


class _Model(QAbstractTableModel):
    """Rows of an `Overview`, then those that are still to come."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: tuple[Row | str, ...] = ()
        self.contexts: tuple[int, ...] = ()
        self.best = ""
        self.wide = True

    def rowCount(self, _parent: Index | None = None) -> int:
        return len(self.rows)

    def columnCount(self, _parent: Index | None = None) -> int:
        return FIRST + len(self.contexts)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> object:
        if orientation is not Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _align(section)
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if section < FIRST:
            return HEADS[section]
        text = words.context(self.contexts[section - FIRST])
        return f"{text} context" if section == FIRST and self.wide else text

    def cell(self, row: int, column: int) -> Cell | None:
        """The cell; None in other columns, and for what is not worked out."""
        found = self.rows[row]
        if isinstance(found, str) or column < FIRST:
            return None
        context = self.contexts[column - FIRST]
        return next((cell for cell in found.cells if cell.context == context), None)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        row, column = self.rows[index.row()], index.column()
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _align(column)
        spoken = role in (Qt.ItemDataRole.AccessibleTextRole, Qt.ItemDataRole.ToolTipRole)
        if role != Qt.ItemDataRole.DisplayRole and not spoken:
            return None
        if isinstance(row, str):
            return row if column == 0 else ""
        if column >= FIRST:
            cell = self.cell(index.row(), column)
            if cell is None:
                return ""
            return _sentence(row, cell) if spoken else cell_text(cell)
        word = "Best fit" if row.name == self.best else words.VERDICTS[row.verdict][0]
        return (
            row.name,
            words.gigabytes(row.size_bytes),
            f"{row.bits_per_weight:.1f}",
            word,
            words.rate(row.rate),
        )[column]


class _Delegate(QStyledItemDelegate):
    """Paints what the mock shows."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        look, model = theme.current(), index.model()
        if not isinstance(model, _Model):
            return
        box = QRectF(option.rect)
        view = self.parent()
        current = view.currentIndex() if isinstance(view, Matrix) else QModelIndex()
        row, column = model.rows[index.row()], index.column()
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        here = current.isValid() and current.row() == index.row()
        if here:
            painter.fillRect(box, QColor(look.accent_soft))
        painter.fillRect(QRectF(box.x(), box.bottom(), box.width(), 1), QColor(look.line))
        cell = model.cell(index.row(), column)
        chosen = here and current.column() == column
        if cell is not None:
            focus = isinstance(view, Matrix) and view.hasFocus()
            _paint_cell(painter, box, cell, chosen=chosen, focus=focus)
        else:
            _paint_text(painter, box, index, row, heavy=here and column == 0)
        painter.restore()


def _paint_text(
    painter: QPainter, box: QRectF, index: Index, row: Row | str, *, heavy: bool
) -> None:
    look, column = theme.current(), index.column()
    color = look.muted if isinstance(row, str) or column == 2 else look.text
    inner = box.adjusted(16 if column == 0 else 8, 0, -8, 0)
    text = str(index.data() or "")
    font = QFont(painter.font())
    font.setWeight(QFont.Weight.DemiBold if heavy else QFont.Weight.Normal)
    if column == 3 and isinstance(row, Row):
        best = text == "Best fit"
        state = "accent" if best else words.VERDICTS[row.verdict][1]
        color = getattr(look, state)
        image = theme.pixmap(ICONS[state], color, 14, painter.device().devicePixelRatioF())
        painter.drawPixmap(round(inner.x()), round(box.center().y() - 6.5), image)
        inner.adjust(20, 0, 0, 0)
        font.setPixelSize(TEXT_SMALL)
        font.setWeight(QFont.Weight.DemiBold)
    painter.setFont(font)
    painter.setPen(QColor(color))
    shown = painter.fontMetrics().elidedText(
        text, Qt.TextElideMode.ElideRight, max(0, int(inner.width()))
    )
    painter.drawText(inner, _align(column), shown)


def _paint_cell(painter: QPainter, box: QRectF, cell: Cell, *, chosen: bool, focus: bool) -> None:
    look, kind = theme.current(), cell.choice.kv_type
    inner = box.adjusted(2, 3.5, -2, -3.5)
    edge, fill, dash = None, None, Qt.PenStyle.SolidLine
    if cell.tight:
        edge, dash = look.ok, Qt.PenStyle.DashLine
    elif cell.fits and kind is KvCacheType.F16:
        fill = QColor(look.ok)
        fill.setAlphaF(0.22)
    elif cell.fits and kind is KvCacheType.Q8_0:
        fill = QColor(look.ok_soft)
    elif cell.fits:
        edge = look.line_strong
    if fill is not None or edge is not None:
        painter.setBrush(fill if fill is not None else QColor(look.surface))
        painter.setPen(QPen(QColor(edge), 1, dash) if edge else Qt.PenStyle.NoPen)
        painter.drawRoundedRect(inner.adjusted(0.5, 0, -0.5, 0), 3, 3)
    if chosen:
        painter.setPen(QPen(QColor(look.accent), 3 if focus else 2))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(inner.adjusted(1, 0, -1, 0), 3, 3)
    font = QFont(painter.font())
    font.setPixelSize(TEXT_SMALL)
    font.setWeight(QFont.Weight.DemiBold if chosen else QFont.Weight.Normal)
    painter.setFont(font)
    painter.setPen(QColor(look.text if cell.fits else look.muted))
    painter.drawText(inner, Qt.AlignmentFlag.AlignCenter, cell_text(cell))


def cell_text(cell: Cell) -> str:
    """`f16`, `q4_0, tight`, `+1.8`."""
    if cell.fits:
        return f"{cell.choice.kv_type}, tight" if cell.tight else str(cell.choice.kv_type)
    return f"+{max(cell.missing_bytes / units.GIB, 0.1):,.1f}"


def _sentence(row: Row, cell: Cell) -> str:
    what = f"{row.name} with {cell.context:,} tokens"
    if cell.fits:
        left = units.format_memory(left_bytes(cell.choice.plan))
        return f"{what}: fits with {cell.choice.kv_type} as KV cache, {left} left on the fullest."
    missing = units.format_memory(cell.missing_bytes)
    runs = "; it runs with a part in main memory" if cell.choice.plan.runs else ""
    return f"{what}: the fullest place lacks {missing} with q4_0 as KV cache{runs}."


def _align(column: int) -> Qt.AlignmentFlag:
    middle = Qt.AlignmentFlag.AlignVCenter
    if column >= FIRST:
        return Qt.AlignmentFlag.AlignHCenter | middle
    side = Qt.AlignmentFlag.AlignRight if column in (1, 2, 4) else Qt.AlignmentFlag.AlignLeft
    return side | middle


class Matrix(QTableView):
    """Signals: cell_chosen(str, Cell), a row's name and its cell, once the person rests there."""

    cell_chosen = Signal(str, object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._quiet = False
        self._rest = after_rest(self, TYPING_MS, self._tell)
        self._table = _Model()
        self.setModel(self._table)
        self.setItemDelegate(_Delegate(self))
        self.setShowGrid(False)
        self.setFrameShape(QTableView.Shape.NoFrame)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(ROW_PX)
        self.verticalHeader().setMinimumSectionSize(ROW_PX)
        head = self.horizontalHeader()
        head.setFixedHeight(HEAD_PX)
        head.setMinimumSectionSize(40)
        head.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        head.setHighlightSections(False)
        head.setSectionsClickable(False)
        self.setAccessibleName("Quantizations and contexts on this machine")
        theme.manager().changed.connect(self.viewport().update)

    def set_overview(self, overview: Overview, shown: tuple[str, ...]) -> None:
        """Show the rows whose names are `shown`, those that are not worked out yet in grey."""
        at = self.chosen_name, self.chosen_context
        rows: list[Row | str] = [row for row in overview.rows if row.name in shown]
        rows += [name for name in overview.pending if name in shown]
        order = {name: index for index, name in enumerate(shown)}
        rows.sort(key=lambda row: order[row if isinstance(row, str) else row.name])
        self._table.beginResetModel()
        self._table.rows = tuple(rows)
        contexts = {cell.context for row in overview.rows for cell in row.cells}
        kept = self._table.contexts if overview.pending else ()
        self._table.contexts = tuple(sorted(contexts)) or kept
        best = overview.best
        fits = best is not None and any(cell.fits for cell in best.cells)
        self._table.best = best.name if best and fits and len(overview.rows) > 1 else ""
        self._table.endResetModel()
        self._lay()
        if at[0]:
            self.choose(*at)

    @property
    def chosen_name(self) -> str:
        """The row that is chosen; empty if none is."""
        index = self.currentIndex()
        row = self._table.rows[index.row()] if index.isValid() else ""
        return row if isinstance(row, str) else row.name

    @property
    def chosen_context(self) -> int:
        """The context that is chosen; 0 if none is."""
        index = self.currentIndex()
        on = index.isValid() and index.column() >= FIRST
        return self._table.contexts[index.column() - FIRST] if on else 0

    @property
    def chosen(self) -> Cell | None:
        """The cell that is chosen."""
        index = self.currentIndex()
        return self._table.cell(index.row(), index.column()) if index.isValid() else None

    def choose(self, name: str, context: int) -> None:
        """Put the frame on a cell; nobody is told."""
        names = [row if isinstance(row, str) else row.name for row in self._table.rows]
        if name in names and context in self._table.contexts:
            column = FIRST + self._table.contexts.index(context)
            self._quiet = True
            self.setCurrentIndex(self._table.index(names.index(name), column))
            self._quiet = False

    def currentChanged(self, current: Index, previous: Index) -> None:
        """Only cells can be chosen; the person's choice is told a moment later."""
        super().currentChanged(current, previous)
        self.viewport().update()
        if self._quiet or not current.isValid():
            return
        if current.column() < FIRST:
            column = previous.column() if previous.isValid() else FIRST
            self.setCurrentIndex(self._table.index(current.row(), max(FIRST, column)))
            return
        self._rest.start()

    def _tell(self) -> None:
        cell = self.chosen
        if cell is not None:
            self.cell_chosen.emit(self.chosen_name, cell)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Contexts share what the other columns leave."""
        super().resizeEvent(event)
        self._lay()

    def _lay(self) -> None:
        count = len(self._table.contexts)
        fixed, room = sum(WIDTHS), self.viewport().width()
        each = max(52, min(110, (room - fixed - 8) // max(1, count)))
        self._table.wide = each >= WIDE_PX
        spare = max(0, room - 8 - fixed - each * count)
        for column in range(self._table.columnCount()):
            width = WIDTHS[column] + (spare // FIRST) if column < FIRST else each
            self.setColumnWidth(column, width)
        self.setFixedHeight(HEAD_PX + ROW_PX * max(1, len(self._table.rows)) + 2)
