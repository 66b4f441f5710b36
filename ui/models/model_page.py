"""The page of one model: what it is, whether this machine runs it, how, and the one thing to do next."""

from __future__ import annotations

import dataclasses

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QFrame, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from app import units
from app.errors import AppError
from app.events import (
    ChoicePlanned,
    HardwareFound,
    ModelExplained,
    ModelStudied,
    RepositoriesRead,
)
from app.gguf.model import ModelLayout
from app.plan.model import PlanHost, Verdict
from app.plan.overview import Cell, Machine, Overview
from app.service.subjects import Offer, OfferKind, Subject
from ui import theme
from ui.models import page_text, words
from ui.models.disk_lines import CheckLine, PlaceLine, ProjectorLine
from ui.models.facts import Facts, Lines, Questions
from ui.models.matrix import Matrix
from ui.models.plan_strip import PlanStrip
from ui.models.reason_line import ReasonLine
from ui.widgets.error_line import ErrorLine
from ui.widgets.labels import button, frame, label
from ui.widgets.verdict import StateWord

USUAL = ("IQ2_M", "Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "BF16", "F16")
"""What is shown of a long list at first."""
LEGEND = "In the cells: KV cache type, or GiB missing on the fullest. Dashed: tight."
MOST_ROWS = 10
MOST_MACHINES = 6
NARROW_PX = 1000


class ModelPage(QWidget):
    """Signals: what the person asks for."""

    back_clicked = Signal()
    card_clicked = Signal(str)
    primary_clicked = Signal()
    refresh_clicked = Signal()
    cell_chosen = Signal(str, object)
    related_clicked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.subject: Subject | None = None
        self.offer = Offer(kind=OfferKind.NONE, words="Download")
        self._overview: Overview | None = None
        self._touched = self._all = False
        self._wanted = ""
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        self._build_head(outer)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        content = QWidget()
        self._scroll.setWidget(content)
        outer.addWidget(self._scroll, 1)
        page = QVBoxLayout(content)
        page.setContentsMargins(32, 12, 32, 24)
        page.setSpacing(12)
        self.facts = Facts()
        page.addWidget(self.facts)
        page.addSpacing(4)
        self._build_machine(page)
        self._build_more(page)
        page.addStretch(1)

    def _build_head(self, outer: QVBoxLayout) -> None:
        head = QVBoxLayout()
        head.setContentsMargins(32, 16, 32, 4)
        head.setSpacing(2)
        crumbs = QHBoxLayout()
        crumbs.setSpacing(6)
        back = button("Models", "link")
        back.setAccessibleName("Back to the list of models")
        back.clicked.connect(self.back_clicked)
        crumbs.addWidget(back)
        crumbs.addWidget(label("›", "muted"))
        self._crumb = label("", "small", elide=True)
        crumbs.addWidget(self._crumb, 1)
        head.addLayout(crumbs)
        row = QHBoxLayout()
        row.setSpacing(8)
        self.title = label("", "title", elide=True)
        row.addWidget(self.title, 1)
        self.card = button(" Model card")
        self.card.clicked.connect(self._open_card)
        row.addWidget(self.card)
        self.primary = button("Download", "primary")
        self.primary.setMinimumWidth(190)
        self.primary.clicked.connect(self.primary_clicked)
        row.addWidget(self.primary)
        head.addLayout(row)
        below = QHBoxLayout()
        self.licence = label("", "body-muted", wrap=True)
        below.setSpacing(16)
        below.addWidget(self.licence, 1)
        self.place, self.check = PlaceLine(), CheckLine()
        below.addWidget(self.place, 0, Qt.AlignmentFlag.AlignTop)
        head.addLayout(below)
        self.projector = ProjectorLine()
        head.addWidget(self.projector)
        head.addWidget(self.check)
        self.reason = ReasonLine()
        head.addWidget(self.reason)
        self.error = ErrorLine()
        head.addWidget(self.error)
        outer.addLayout(head)
        outer.addSpacing(8)
        outer.addWidget(frame("rule"))
        theme.manager().changed.connect(self._draw_icon)
        self._draw_icon()

    def _draw_icon(self) -> None:
        self.card.setIcon(theme.icon("external-link", theme.current().muted))

    def _build_machine(self, page: QVBoxLayout) -> None:
        row = QHBoxLayout()
        row.setSpacing(12)
        row.addWidget(label("Can this machine run it?", "section"))
        self.answer = StateWord(kind="strong")
        row.addWidget(self.answer)
        self.note = label("", "body-muted", elide=True)
        row.addWidget(self.note, 1)
        page.addLayout(row)
        self._card = QFrame()
        self._card.setProperty("kind", "card")
        inner = QVBoxLayout(self._card)
        inner.setContentsMargins(1, 1, 1, 6)
        self.matrix = Matrix()
        self.matrix.cell_chosen.connect(self._chosen)
        inner.addWidget(self.matrix)
        page.addWidget(self._card)
        foot = QHBoxLayout()
        self.more = button("", "link")
        self.more.clicked.connect(self._show_all)
        foot.addWidget(self.more)
        self.reading = label("", "muted", elide=True)
        foot.addWidget(self.reading, 1)
        self._legend = label(LEGEND, "muted")
        foot.addWidget(self._legend)
        page.addLayout(foot)
        self.strip = PlanStrip()
        page.addWidget(self.strip)

    def _build_more(self, page: QVBoxLayout) -> None:
        self._columns = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._columns.setSpacing(40)
        self.hardware = Lines("Hardware that runs it", right=(1, 2))
        self.related = Lines("Related models", right=(1, 2))
        self._columns.addWidget(self.hardware, 1)
        self._columns.addWidget(self.related, 1)
        page.addSpacing(8)
        page.addLayout(self._columns)
        self.questions = Questions()
        page.addWidget(self.questions)
        self.sources = label("", "muted", wrap=True)
        page.addWidget(self.sources)

    # --- what is shown ------------------------------------------------------------

    def set_subject(self, subject: Subject, wanted: str = "") -> None:
        """Another model; everything of the one before is gone. `wanted` is chosen, else what is best."""
        self.subject, self._overview, self._wanted = subject, None, wanted
        self._touched = self._all = False
        self.error.clear()
        self.reason.set_problem(None)
        self.projector.switch.setChecked(False)
        self._scroll.verticalScrollBar().setValue(0)
        self._crumb.setText(subject.name)
        self.title.setText(subject.name)
        self.title.setToolTip(subject.name)
        entry = subject.entry
        self.licence.setText(page_text.licence(subject))
        self._show_facts(None)
        self.card.setVisible(bool(subject.repos or entry))
        self.answer.set_state("Working it out", "busy")
        self.note.setText("")
        self.reading.setText("Reading layers")
        for part in (self.more, self.strip, self.hardware, self.related, self.questions):
            part.hide()
        names = (subject.local.quantization or subject.name,) if subject.local else ()
        self.matrix.set_overview(_EMPTY, names)
        self.sources.setText(page_text.sources(entry) if entry else "")
        self.set_offer(Offer(kind=OfferKind.NONE, words="Download"))

    def _show_facts(self, layout: ModelLayout | None, *, reading: bool = True) -> None:
        subject = self.subject
        if subject is not None:
            entry = subject.entry
            good = [fact.value for fact in entry.strengths] if entry else []
            mind = [fact.value for fact in entry.limits] if entry else []
            self.facts.set_facts(
                tuple(page_text.facts(subject, layout, reading=reading)), good, mind
            )

    def set_repositories(self, event: RepositoriesRead) -> None:
        """Where it is from, and how old that knowledge is."""
        self.reason.set_problem(event.error)
        if event.error is not None:
            return
        parts = []
        for answer in event.answers[:1]:
            parts.append(f"{answer.value.repo}, asked {words.age(answer.age_s)}.")
            parts += [answer.notice] if answer.notice else []
            parts += ["Gated: accept its terms on its page first."] if answer.value.gated else []
        if self.subject is not None:
            self.licence.setText(f"{page_text.licence(self.subject)} {' '.join(parts)}".strip())

    def set_studied(self, event: ModelStudied) -> None:
        """The rows so far."""
        known = self._overview is not None and bool(self._overview.rows)
        self._overview = event.overview
        if event.overview.rows and not known:
            self._show_facts(event.overview.rows[0].best.layout)
        self._show_matrix()
        self.reading.setText(event.reading)
        done = not event.reading
        if done and not event.overview.rows:
            self._show_facts(None, reading=False)
        self._show_answer(event.overview, done=done)
        if event.error is not None:
            self.reason.set_problem(event.error)
        named = [row for row in event.overview.rows if row.name == self._wanted]
        chosen = named[0] if named else event.overview.best
        if chosen is not None and not self._touched and done:
            self.matrix.choose(chosen.name, chosen.best.plan.context)
            self._tell_chosen()

    def _show_matrix(self) -> None:
        overview = self._overview
        if overview is None:
            return
        names = [row.name for row in overview.rows] + list(overview.pending)
        best = overview.best
        shown = names
        if len(names) > MOST_ROWS and not self._all:
            keep = {*USUAL, self.matrix.chosen_name, self._wanted, best.name if best else ""}
            shown = [name for name in names if name in keep] or names
        sizes = {row.name: row.size_bytes for row in overview.rows}
        if not overview.pending:
            shown = sorted(shown, key=lambda name: sizes[name])
        if not names and self.matrix.hasFocus():
            self.card.setFocus()
        self._card.setVisible(bool(names))
        self._legend.setVisible(bool(names))
        self.more.setVisible(len(shown) < len(names))
        self.more.setText(f"Show all {len(names)} quantizations")
        self.matrix.set_overview(overview, tuple(shown))

    def _show_all(self) -> None:
        self._all = True
        self._show_matrix()
        self.matrix.setFocus()

    def _show_answer(self, overview: Overview, *, done: bool) -> None:
        best, where = overview.best, overview.machine.words
        if best is None:
            words_, state = ("Not known", "") if done else ("Working it out", "busy")
            self.answer.set_state(words_, state)
            return
        count = len(overview.rows)
        fitting = (
            f"{overview.fitting} of {count} quantizations {_verb(overview.fitting)} into {where}."
        )
        match best.verdict:
            case Verdict.FITS | Verdict.CPU_ONLY:
                self.answer.set_state(f"Yes, with {best.name}", "ok", "circle-check")
            case Verdict.PARTLY:
                self.answer.set_state(f"Partly in RAM, with {best.name}", "warn")
            case Verdict.TOO_LARGE:
                self.answer.set_state("No", "error", "circle-x")
                fitting = f"Even {best.name} lacks memory on {where}."
        if not done:
            fitting = f"So far {fitting[0].lower()}{fitting[1:]}"
        self.note.setText(fitting)
        self.note.setToolTip(fitting)

    def _chosen(self, _name: str, _cell: Cell) -> None:
        self._touched = True
        self._tell_chosen()

    def _tell_chosen(self) -> None:
        cell = self.matrix.chosen
        if cell is not None:
            self.cell_chosen.emit(self.matrix.chosen_name, cell)

    def set_plan(self, event: ChoicePlanned) -> None:
        """The exact plan of the chosen cell."""
        if event.name == self.matrix.chosen_name:
            self.strip.set_plan(event.plan, event.layout)
            self.strip.show()

    def set_hardware(self, event: HardwareFound) -> None:
        """The least of each GPU that holds the chosen cell."""
        self.hardware.title.setText(
            f"Hardware that runs {event.name} with {event.context:,} tokens"
        )
        rows: list[tuple[QWidget | str, ...]] = []
        for machine in event.machines[:MOST_MACHINES]:
            low, high = machine.likely_low, machine.likely_high
            likely = "" if low is None or high is None else f"{low:,.0f} to {high:,.0f} tok/s"
            count = f"{machine.count} × {machine.gpu}"
            rows.append((count, units.format_memory(machine.memory_bytes, digits=0), likely))
        self.hardware.set_rows(rows)
        more = len(event.machines) - MOST_MACHINES
        note = (
            f"{more} more sorts of GPU do; `ultra-launcher hardware` lists them."
            if more > 0
            else ""
        )
        nothing = "No machine of up to eight equal GPUs holds it."
        self.hardware.note.setText(note if event.machines else nothing)
        self.hardware.show()

    def set_explained(self, event: ModelExplained) -> None:
        """Related models, and usual questions with their answers."""
        rows: list[tuple[QWidget | str, ...]] = []
        for related in event.related:
            link = button(related.entry.name, "link")
            link.setToolTip(f"{related.relation.capitalize()}. {related.note}")
            link.setAccessibleDescription(related.note)
            link.clicked.connect(
                lambda _on=False, key=related.entry.id: self.related_clicked.emit(key)
            )
            verdict, fit = StateWord(kind="small"), related.fit
            verdict.set_state(*words.fit(fit))
            size = ""
            if fit is not None and fit.size_bytes:
                size = f"{fit.quantization}, {units.format_file_size(fit.size_bytes)}"
            rows.append((_left(link), related.relation, size, verdict))
        self.related.set_rows(rows)
        self.related.setVisible(bool(rows))
        entry = self.subject.entry if self.subject is not None else None
        self.questions.set_answers([*(page_text.use(entry) if entry else ()), *event.answers])

    def show_error(self, error: AppError) -> None:
        """What could not be done; it stays until it is dismissed, or another comes."""
        self.error.show_error(str(error))

    def set_offer(self, offer: Offer) -> None:
        """What the one button does now; what would not run here may be had all the same."""
        cell = self.matrix.chosen
        if offer.kind is OfferKind.DOWNLOAD and cell is not None and not cell.choice.plan.runs:
            note = f"It would not run here. {cell.choice.plan.sentence}"
            offer = dataclasses.replace(offer, reason=offer.reason or note)
        self.offer = offer
        self.primary.setText(offer.words)
        self.primary.setEnabled(offer.kind is not OfferKind.NONE)
        self.primary.setToolTip(offer.reason)
        self.reason.set_reason(offer.reason)

    # --- small things ---------------------------------------------------------------

    def _open_card(self) -> None:
        subject = self.subject
        if subject is not None and subject.repos:
            self.card_clicked.emit(subject.repos[0])

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Columns go below each other in a narrow window."""
        super().resizeEvent(event)
        narrow = self.width() < NARROW_PX
        self.questions.set_room(self.width() - 64)
        self.facts.set_narrow(narrow)
        direction = QBoxLayout.Direction
        self._columns.setDirection(direction.TopToBottom if narrow else direction.LeftToRight)


def _verb(count: int) -> str:
    return "fits" if count == 1 else "fit"


def _left(widget: QWidget) -> QWidget:
    """A widget that keeps its width in a column that stretches."""
    box = QWidget()
    row = QHBoxLayout(box)
    row.setContentsMargins(0, 0, 0, 0)
    row.addWidget(widget)
    row.addStretch(1)
    return box


_EMPTY = Overview(
    machine=Machine(devices=(), host=PlanHost(total_bytes=1, available_bytes=1)), rows=()
)
