"""An answer's Markdown as blocks: text, and code in cards. Only blocks that changed are drawn again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from PySide6.QtCore import QRectF, QSize, Qt, QUrl
from PySide6.QtGui import (
    QColor,
    QDesktopServices,
    QFocusEvent,
    QFont,
    QGuiApplication,
    QPainter,
    QPaintEvent,
    QPen,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
)
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QSizePolicy,
    QTextBrowser,
    QTextEdit,
    QVBoxLayout,
    QWidget,
)

from ui import theme
from ui.chat.highlight import spans
from ui.chat.wrapping import wrapping
from ui.widgets.labels import button, frame, label

SAFE_SCHEMES = ("http", "https", "mailto")
LINE_PERCENT = 130
_BY_KEYBOARD = (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason)
_FENCE = re.compile(r"^( {0,3})(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$")


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A run of Markdown, or the inside of a fence; `language` is None for Markdown."""

    text: str
    language: str | None = None


def split(markdown: str) -> Iterator[Block]:
    """Blocks in order; a fence that is still open ends with the text (CommonMark, fenced code)."""
    lines: list[str] = []
    fence: re.Match[str] | None = None
    for line in markdown.splitlines(keepends=True):
        mark = _FENCE.match(line.rstrip("\n"))
        if fence is None and mark:
            if "".join(lines).strip():
                yield Block("".join(lines))
            fence, lines = mark, []
        elif fence is not None and mark and not mark[3] and mark[2].startswith(fence[2]):
            yield Block("".join(lines).rstrip("\n"), fence[3])
            fence, lines = None, []
        else:
            lines.append(line)
    if fence is not None:
        yield Block("".join(lines).rstrip("\n"), fence[3])
    elif "".join(lines).strip():
        yield Block("".join(lines))


class Text(QTextBrowser):
    """Text as high as it is long. Markdown without HTML; nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self._ring = False
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setStyleSheet("QTextBrowser { background: transparent; border: none; }")
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setOpenLinks(False)
        self.anchorClicked.connect(_open)
        self.document().setDocumentMargin(0)
        self.document().documentLayout().documentSizeChanged.connect(self._fit)

    def set_markdown(self, text: str) -> None:
        """Show Markdown, with the chat's line height."""
        self.setWordWrapMode(wrapping(text))
        features = QTextDocument.MarkdownFeature
        document = self.document()
        document.setMarkdown(text, features.MarkdownDialectGitHub | features.MarkdownNoHTML)
        cursor = QTextCursor(document)
        cursor.select(QTextCursor.SelectionType.Document)
        form = QTextBlockFormat()
        form.setLineHeight(LINE_PERCENT, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
        form.setBottomMargin(8)
        cursor.mergeBlockFormat(form)

    def setPlainText(self, text: str) -> None:
        """Show text as it is."""
        self.setWordWrapMode(wrapping(text))
        super().setPlainText(text)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """A ring for those who came by keyboard."""
        self._ring = event.reason() in _BY_KEYBOARD
        super().focusInEvent(event)
        self.viewport().update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """None any more."""
        self._ring = False
        super().focusOutEvent(event)
        self.viewport().update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """The text, and the ring around it."""
        super().paintEvent(event)
        if self._ring:
            painter = QPainter(self.viewport())
            painter.setPen(QPen(QColor(theme.current().accent), 2))
            painter.drawRoundedRect(QRectF(self.viewport().rect()).adjusted(1, 1, -1, -1), 4, 4)
            painter.end()

    def loadResource(self, _kind: int, _name: QUrl | str) -> object:
        """Nothing is loaded, neither from disk nor from the network."""
        return None

    def sizeHint(self) -> QSize:
        """As high as the text."""
        return QSize(400, round(self.document().size().height()) + 2)

    def _fit(self) -> None:
        self.setFixedHeight(max(20, round(self.document().size().height()) + 2))


def _open(url: QUrl) -> None:
    if url.scheme() in SAFE_SCHEMES:
        QDesktopServices.openUrl(url)


class CodeCard(QFrame):
    """Code with its language, a copy button, and colours."""

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("kind", "card")
        self._block = Block("", "")
        self._drawn: list[tuple[tuple[str, str], int]] = []
        """Each piece with its role, and where it ends."""
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        head = QHBoxLayout()
        head.setContentsMargins(14, 6, 14, 6)
        self._language = label("", "muted")
        head.addWidget(self._language, 1)
        copy = button("Copy", "link")
        copy.setAccessibleName("Copy the code")
        copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self._block.text))
        head.addWidget(copy)
        column.addLayout(head)
        column.addWidget(frame("rule"))
        self._view = QTextEdit()
        self._view.setReadOnly(True)
        self._view.setAccessibleName("Code")
        self._view.setFrameShape(QFrame.Shape.NoFrame)
        self._view.setStyleSheet("QTextEdit { background: transparent; border: none; }")
        self._view.setLineWrapMode(QTextEdit.LineWrapMode.NoWrap)
        self._view.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._view.document().setDocumentMargin(14)
        self._view.document().documentLayout().documentSizeChanged.connect(self._fit)
        column.addWidget(self._view)
        theme.manager().changed.connect(self._draw_again)

    def set_block(self, block: Block, title: str = "") -> None:
        """Show code, its language above it or a `title`; of code that grows, only what is new is drawn."""
        self._block = block
        self._language.setText(title or block.language or "text")
        self._draw()

    def _draw_again(self) -> None:
        self._drawn = []
        self._draw()

    def _draw(self) -> None:
        pieces = list(spans(self._block.text, self._block.language or ""))
        same = 0
        while same < min(len(pieces), len(self._drawn)) and pieces[same] == self._drawn[same][0]:
            same += 1
        del self._drawn[same:]
        cursor = QTextCursor(self._view.document())
        cursor.beginEditBlock()
        cursor.setPosition(self._drawn[-1][1] if self._drawn else 0)
        cursor.movePosition(QTextCursor.MoveOperation.End, QTextCursor.MoveMode.KeepAnchor)
        cursor.removeSelectedText()
        if not self._drawn:
            block = QTextBlockFormat()
            block.setLineHeight(20, QTextBlockFormat.LineHeightTypes.FixedHeight.value)
            cursor.setBlockFormat(block)
        forms = _code_forms()
        for text, role in pieces[same:]:
            cursor.insertText(text, forms.get(role, forms[""]))
            self._drawn.append(((text, role), cursor.position()))
        cursor.endEditBlock()

    def _fit(self) -> None:
        bar = self._view.horizontalScrollBar()
        extra = bar.height() if bar.maximum() > 0 else 0
        self._view.setFixedHeight(round(self._view.document().size().height()) + extra + 2)


def _code_forms() -> dict[str, QTextCharFormat]:
    look = theme.current()
    font = QFont("JetBrains Mono")
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setPixelSize(12)
    colors = {
        "": look.text,
        "keyword": look.code_keyword,
        "function": look.code_function,
        "string": look.code_string,
        "comment": look.code_comment,
    }
    forms = {}
    for role, color in colors.items():
        forms[role] = QTextCharFormat()
        forms[role].setFont(font)
        forms[role].setForeground(QColor(color))
    return forms


class Answer(QWidget):
    """The blocks of one answer, one below the other."""

    def __init__(self) -> None:
        super().__init__()
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(8)
        self._blocks: list[Block] = []
        self._views: list[Text | CodeCard] = []

    def set_markdown(self, markdown: str) -> None:
        """Show it all; blocks that are as before are left alone."""
        blocks = list(split(markdown))
        for index, block in enumerate(blocks):
            if index < len(self._blocks) and self._blocks[index] == block:
                continue
            wanted = Text if block.language is None else CodeCard
            if index < len(self._views) and not isinstance(self._views[index], wanted):
                self._drop(index)
            if index == len(self._views):
                view = wanted()
                view.setAccessibleName("Answer" if block.language is None else "Code of the answer")
                self._views.append(view)
                self._column.addWidget(view)
            shown = self._views[index]
            if isinstance(shown, Text):
                shown.set_markdown(block.text)
            else:
                shown.set_block(block)
        self._drop(len(blocks))
        self._blocks = blocks

    def _drop(self, start: int) -> None:
        for view in self._views[start:]:
            self._column.removeWidget(view)
            view.hide()
            view.deleteLater()
        del self._views[start:]
        del self._blocks[start:]
