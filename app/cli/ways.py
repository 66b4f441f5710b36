"""Ways out of a fault in the terminal: told with numbers, taken by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app.cli.context import Emit, Say
from app.errors import AppError
from app.events import AppEvent, WayOut, WaysOutFound
from app.service import AppService
from app.settings.model import Settings


class Ways:
    """What can be done now, numbered from 1."""

    def __init__(self, service: AppService, say: Say, emit: Emit, *, asks: bool) -> None:
        """Nothing is wrong yet; `say` prints for a person, `emit` an object for a program.

        `asks`: lines are read, so that one can be chosen; else its options are told.
        """
        self._service, self._say, self._emit = service, say, emit
        self._asks = asks
        self._found = WaysOutFound()

    def follow(
        self, error: AppError, hear: Callable[[], AppEvent], tell: Callable[[AppEvent], None]
    ) -> bool:
        """Wait for the ways out of `error` and tell them; False if it has none that a setting takes."""
        if not self._service.ways.knows(error):
            return False
        while not isinstance(event := hear(), WaysOutFound):
            tell(event)
        self.tell(event)
        return any(way.settings is not None for way in event.ways)

    def tell(self, found: WaysOutFound) -> None:
        """Print what is wrong, and each way with its number."""
        self._found = found
        if not found.sentence:
            return
        self._say(f"{found.sentence} {found.detail}".strip())
        before = self._service.settings
        for number, way in enumerate(found.ways, 1):
            mark = f"/{number}" if way.settings is not None and self._asks else "- "
            flags = "" if self._asks else _flags(_changes(before, way) or {})
            self._say(f"  {mark}  {way.title}: {way.effect}.{flags}")
        self._emit(
            "ways_out",
            sentence=found.sentence,
            detail=found.detail,
            ways=[
                {
                    "number": number,
                    "title": way.title,
                    "effect": way.effect,
                    "settings": _changes(before, way),
                }
                for number, way in enumerate(found.ways, 1)
            ],
        )

    def block(self) -> bool:
        """True, and told again, if what is planned now cannot be loaded, but one of the ways can."""
        plan = self._service.planning.plan
        blocked = bool(self._found.ways) and plan is not None and not plan.runs
        if blocked:
            self.tell(self._found)
        return blocked

    def take(self, text: str) -> bool:
        """Go the way with the number in `text` (`2`, `/2`) and load; False if there is none."""
        numbered = {str(number): way for number, way in enumerate(self._found.ways, 1)}
        way = numbered.get(text.removeprefix("/"))
        if way is None or way.settings is None:
            return False
        self._say(f"{way.title}.")
        self._found = WaysOutFound()
        # What the command line asked for is not for good, so neither is this.
        self._service.take(way, keep=False)
        return True


def _flags(changes: Mapping[str, object]) -> str:
    """The options of the command line that do the same; empty if there are none for all of it."""
    known = ("context", "kv_type_k", "kv_type_v")
    if not changes or any(name not in known for name in changes):
        return ""
    words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changes.items())
    return f" Give {words}."


def _changes(before: Settings, way: WayOut) -> dict[str, object] | None:
    """What the way changes; None if no setting does it."""
    if way.settings is None:
        return None
    old, new = before.model_dump(mode="json"), way.settings.model_dump(mode="json")
    return {name: value for name, value in new.items() if value != old[name]}
