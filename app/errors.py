"""The two families of exceptions: what a person reads, and what a person asked for.

Only the text of an `AppError` reaches a widget or the terminal. Every other
exception is a bug: it goes to the log and to one reporter.
"""

from __future__ import annotations

import enum


class ErrorKind(enum.StrEnum):
    """What went wrong, coarsely; the command line turns it into its exit code."""

    USAGE = "usage"
    MODEL_FILE = "model_file"
    MEMORY = "memory"
    DISK = "disk"
    ENGINE = "engine"
    HARDWARE = "hardware"
    SETTINGS = "settings"
    NETWORK = "network"
    INTERNAL = "internal"


EXIT_CODES: dict[ErrorKind, int] = {
    ErrorKind.INTERNAL: 1,
    ErrorKind.USAGE: 2,
    ErrorKind.MODEL_FILE: 3,
    ErrorKind.MEMORY: 4,
    ErrorKind.ENGINE: 5,
    ErrorKind.DISK: 6,
    ErrorKind.HARDWARE: 7,
    ErrorKind.SETTINGS: 8,
    ErrorKind.NETWORK: 9,
}
"""Exit code of the command line for each kind of error; 0 is success, 130 an interrupt."""


class Action(enum.StrEnum):
    """The one thing a window can offer as a button beside an error."""

    RELOAD = "reload"
    CHOOSE_MODEL = "choose_model"
    OPEN_SPLIT = "open_split"
    OPEN_SETTINGS = "open_settings"
    COPY_DIAGNOSTICS = "copy_diagnostics"
    LOG_IN = "log_in"


class AppError(Exception):
    """An error that a person reads.

    Attributes:
        title: One sentence that names the thing at fault (the file, the card).
        detail: What exactly was seen; may be empty.
        hint: The way out, as an instruction; may be empty.
        action: What the window offers as a button, or None.
        kind: Decides the exit code of the command line.
    """

    def __init__(
        self,
        title: str,
        *,
        detail: str = "",
        hint: str = "",
        action: Action | None = None,
        kind: ErrorKind = ErrorKind.INTERNAL,
    ) -> None:
        """Keep the parts apart; `str()` joins them into one line."""
        super().__init__(title)
        self.title = title
        self.detail = detail
        self.hint = hint
        self.action = action
        self.kind = kind

    def __str__(self) -> str:
        """Title, detail and hint as one line."""
        return " ".join(part for part in (self.title, self.detail, self.hint) if part)

    @property
    def exit_code(self) -> int:
        """The command line's exit code for this error."""
        return EXIT_CODES[self.kind]


class Cancelled(Exception):  # noqa: N818 - no error: the person asked for it
    """The person stopped the operation; nothing is wrong."""
