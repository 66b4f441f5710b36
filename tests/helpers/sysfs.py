"""A tree as Linux lays out /sys: devices where they hang, and links to them by bus id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class SysfsTree:
    """Writes below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def add(
        self, place: str, files: Mapping[str, str], *, driver: str = "", listed: bool = True
    ) -> None:
        """A device at `place`, below `root`, with its driver."""
        self.write(place, files)
        folder = self._root / place
        if driver:
            target = self._root / "bus" / "pci" / "drivers" / driver
            target.mkdir(parents=True, exist_ok=True)
            (folder / "driver").symlink_to(target)
        if listed:
            link = self._root / "bus" / "pci" / "devices" / folder.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder)

    def write(self, place: str, files: Mapping[str, str]) -> None:
        """Write a device's files."""
        for name, content in files.items():
            file = self._root / place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content + "\n")
