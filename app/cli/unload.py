"""Puts a model away from the terminal, its KV cache on disk where that is wanted."""

from __future__ import annotations

import sys

from app import units
from app.cli.context import Say
from app.cli.hearing import Hearing
from app.engine.model import EngineState
from app.events import SnapshotChanged, SnapshotMeasured, SnapshotState
from app.service import AppService


def unload(service: AppService, hearing: Hearing, say: Say, *, keep: bool, asks: bool) -> None:
    """Free the engine's memory; the next question loads the model again.

    Ctrl+C while the KV cache is written does without it.

    Args:
        service: Has a model loaded.
        hearing: What it says.
        say: Tells a person.
        keep: Save the KV cache first.
        asks: There is a person who can say that it is too large.
    """
    hearing.drop()
    if keep:
        service.snapshots.measure()
        keep = _agrees(hearing, say, asks=asks)
    service.chat.sleep(keep=keep)
    while service.engine.state is not EngineState.STOPPED or hearing.waits:
        try:
            hearing.tell(hearing.next())
        except KeyboardInterrupt:
            service.chat.sleep(keep=False)
    say("Unloaded. The next question loads it again.")


def _agrees(hearing: Hearing, say: Say, *, asks: bool) -> bool:
    """A KV cache can be as large as a film: its size is said first. False if it cannot be saved."""
    while not isinstance(size := hearing.next(), SnapshotMeasured):
        hearing.tell(size)
        if isinstance(size, SnapshotChanged) and size.state is SnapshotState.FAILED:
            return False
    say(
        f"The KV cache takes {units.format_file_size(size.size_bytes)} for {size.tokens:,} tokens; "
        f"the disk has {units.format_file_size(size.free_bytes)}."
    )
    if not asks:
        return True
    print("Save it? [Y/n] ", end="", file=sys.stderr, flush=True)
    with hearing.reading():
        return sys.stdin.readline().strip().lower() in ("", "y", "yes")
