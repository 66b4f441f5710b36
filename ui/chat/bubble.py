"""One message in the transcript."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication, QTextDocument, QTextOption
from PySide6.QtWidgets import QFrame, QHBoxLayout, QSizePolicy, QTextBrowser, QVBoxLayout, QWidget

from ui.widgets.labels import button, label

SAFE_SCHEMES = ("http", "https", "mailto")
NOTES = {
    "stopped": "Stopped.",
    "truncated": "The context or the longest answer was reached.",
    "interrupted": "The engine stopped before the answer was complete.",
}


class _Text(QTextBrowser):
    """Text as high as it is long. Markdown without HTML; nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setStyleSheet("QTextBrowser { background: transparent; border: none; }")
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setOpenLinks(False)
        self.anchorClicked.connect(_open)
        self.document().setDocumentMargin(0)
        self.document().documentLayout().documentSizeChanged.connect(self._fit)

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


class Bubble(QWidget):
    """A user's message in a soft bubble, or an answer without one, with its note and a copy button."""

    def __init__(self, *, user: bool) -> None:
        super().__init__()
        self.text = ""
        self._user = user
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        self._body = _Text()
        self._body.setAccessibleName("Your message" if user else "Answer")
        if user:
            box = QFrame()
            box.setObjectName("bubble")
            box.setProperty("kind", "bubble")
            inner = QVBoxLayout(box)
            inner.setContentsMargins(16, 10, 16, 10)
            inner.addWidget(self._body)
            row = QHBoxLayout()
            row.addSpacing(120)
            row.addWidget(box)
            outer.addLayout(row)
            return
        outer.addWidget(self._body)
        foot = QHBoxLayout()
        self._note = label("", "muted")
        self._copy = button("Copy", "link")
        self._copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self.text))
        self._copy.hide()
        foot.addWidget(self._copy)
        foot.addSpacing(8)
        foot.addWidget(self._note, 1)
        outer.addLayout(foot)

    def set_text(self, text: str) -> None:
        """Show the whole text."""
        self.text = text
        if self._user:
            self._body.setPlainText(text)
        else:
            features = QTextDocument.MarkdownFeature
            self._body.document().setMarkdown(
                text, features.MarkdownDialectGitHub | features.MarkdownNoHTML
            )

    def finish(self, outcome: str, tokens: int | None) -> None:
        """The answer is final."""
        parts = [NOTES.get(outcome, ""), f"{tokens:,} tokens" if tokens is not None else ""]
        self._note.setText("  ".join(part for part in parts if part))
        self._copy.setVisible(bool(self.text))
