"""Facts of a model in three columns: what it is, what it is good at, what to keep in mind."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QBoxLayout, QGridLayout, QLabel, QVBoxLayout, QWidget

from ui import theme
from ui.widgets.labels import clear, label

READING_PX = 740


class Facts(QWidget):
    """Side by side where there is room, below each other where not."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._columns = QBoxLayout(QBoxLayout.Direction.LeftToRight, self)
        self._columns.setContentsMargins(0, 0, 0, 0)
        self._columns.setSpacing(32)
        self._grids: list[QGridLayout] = []
        self._boxes: list[QWidget] = []
        self._marks: list[tuple[QLabel, str]] = []
        for title, stretch in (("Facts", 5), ("Good at", 5), ("Keep in mind", 5)):
            box = QWidget()
            column = QVBoxLayout(box)
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(6)
            column.addWidget(label(title, "strong"))
            grid = QGridLayout()
            grid.setHorizontalSpacing(10)
            grid.setVerticalSpacing(4)
            grid.setColumnStretch(1, 1)
            column.addLayout(grid)
            column.addStretch(1)
            self._columns.addWidget(box, stretch)
            self._grids.append(grid)
            self._boxes.append(box)
        theme.manager().changed.connect(self._draw_marks)

    def set_narrow(self, narrow: bool) -> None:
        """Below each other."""
        direction = QBoxLayout.Direction
        self._columns.setDirection(direction.TopToBottom if narrow else direction.LeftToRight)
        self._columns.setSpacing(16 if narrow else 32)

    def set_facts(
        self, facts: Sequence[tuple[str, str]], good: Sequence[str], mind: Sequence[str]
    ) -> None:
        """Show these; columns without anything are not there."""
        self._marks = []
        for grid in self._grids:
            clear(grid)
        for row, (name, value) in enumerate(facts):
            self._grids[0].addWidget(label(name, "body-muted"), row, 0, Qt.AlignmentFlag.AlignTop)
            text = label(value, wrap=True)
            text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            self._grids[0].addWidget(text, row, 1)
        for grid, icon, lines in ((self._grids[1], "plus", good), (self._grids[2], "minus", mind)):
            for row, line in enumerate(lines):
                mark = QLabel()
                mark.setFixedSize(16, 20)
                self._marks.append((mark, icon))
                grid.addWidget(mark, row, 0, Qt.AlignmentFlag.AlignTop)
                grid.addWidget(label(line, wrap=True), row, 1)
        self._boxes[0].setVisible(bool(facts))
        self._boxes[1].setVisible(bool(good))
        self._boxes[2].setVisible(bool(mind))
        self._draw_marks()

    def _draw_marks(self) -> None:
        ratio, color = self.devicePixelRatioF(), theme.current().muted
        for mark, icon in self._marks:
            mark.setPixmap(theme.pixmap(icon, color, 14, ratio))


class Lines(QWidget):
    """A heading over rows of a few columns, each with a line above; the first column stretches."""

    def __init__(self, title: str, right: Sequence[int], parent: QWidget | None = None) -> None:
        """`right` are the columns whose ends stand in line."""
        super().__init__(parent)
        self._right = right
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        self.title = label(title, "strong", wrap=True)
        column.addWidget(self.title)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(16)
        self._grid.setVerticalSpacing(0)
        column.addLayout(self._grid)
        self.note = label("", "muted", wrap=True)
        column.addWidget(self.note)
        column.addStretch(1)

    def set_rows(self, rows: Sequence[Sequence[QWidget | str]]) -> None:
        """Texts, or widgets made for the purpose."""
        clear(self._grid)
        for number, cells in enumerate(rows):
            rule = QWidget()
            rule.setProperty("kind", "line")
            rule.setFixedHeight(1)
            rule.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
            self._grid.addWidget(rule, 2 * number, 0, 1, max(1, len(cells)))
            self._grid.setRowMinimumHeight(2 * number + 1, 30)
            for column, cell in enumerate(cells):
                widget = label(cell, elide=column == 0) if isinstance(cell, str) else cell
                side = Qt.AlignmentFlag.AlignRight if column in self._right else Qt.AlignmentFlag(0)
                if column and isinstance(cell, str):
                    self._grid.addWidget(
                        widget, 2 * number + 1, column, side | Qt.AlignmentFlag.AlignVCenter
                    )
                else:
                    self._grid.addWidget(widget, 2 * number + 1, column)
            self._grid.setColumnStretch(0, 1)


class Questions(QWidget):
    """What is asked often, with answers, in a column that can be read."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 8, 0, 0)
        self._column.setSpacing(4)

    def set_answers(self, answers: Sequence[tuple[str, str]]) -> None:
        """Show these; nothing at all without any."""
        while item := self._column.takeAt(0):
            if widget := item.widget():
                widget.hide()
                widget.deleteLater()
        for question, answer in answers:
            head, text = label(question, "strong", wrap=True), label(answer, wrap=True)
            for part in (head, text):
                part.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
                self._column.addWidget(part)
            text.setContentsMargins(0, 0, 0, 8)
        self.setVisible(bool(answers))

    def set_room(self, width: int) -> None:
        """So much is there; no line becomes longer than can be read."""
        # A maximum width would cut lines off: the layout asks for the height at its own width.
        self._column.setContentsMargins(0, 8, max(0, width - READING_PX), 0)
