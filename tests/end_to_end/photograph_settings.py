"""Photographs the page of settings: `python -m tests.end_to_end.photograph_settings FOLDER`.

The largest model is chosen on a described machine, and some settings are changed; one is wrong.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtTest import QTest

from app.engine.protocol import Sampling
from app.gguf import bundled
from app.service import AppService
from app.settings.model import Settings
from app.settings.shown import Section
from tests.end_to_end.photograph import NARROW, looks, save, studio
from tests.helpers import described
from ui import theme
from ui.main_window import MainWindow
from ui.settings.controls import LineField

WIDE = 1680, 1000
CHANGED = Settings(
    context=32_768,
    system_prompt="detailed thinking on",
    rpc_servers=("192.168.1.20:50052", "192.168.1.21:50052"),
    sampling=Settings(
        sampling={"top_p": 0.9, "top_k": 20, "logit_bias": [[" the", -5.0], [42, -100.0]]}
    ).sampling,
)


def photograph(folder: Path) -> None:
    """Each section, light and dark; then narrow, wide, searched, and with strong edges."""
    service = AppService()
    window = MainWindow(service)
    window.show()
    service.hardware.report = described.report("8x RTX 3090", ram_gib=128)
    service.planning.layout = bundled.layout("nemotron-ultra-253b:Q4_K_M")
    service.settings = CHANGED
    window.show_page("Settings")
    view = window.settings.view
    view.show_settings(
        CHANGED,
        Sampling(temperature=0.6, top_p=0.95, top_k=0, min_p=0),
        CHANGED.model_copy(update={"context": None}),
        view._sentence,
    )
    field = view.rows["micro_batch"].field
    assert isinstance(field, LineField)
    field.line.clear()
    QTest.keyClicks(field.line, "8")
    field.commit()
    for suffix in looks():
        for section, part in view._parts.items():
            view._go(part)
            save(window, folder / f"settings-{Section(section).name.lower()}{suffix}.png")
        view._scroll.ensureWidgetVisible(view.rows["sampling.grammar"])
        save(window, folder / f"settings-constraints{suffix}.png")
    bar = view._scroll.verticalScrollBar()
    bar.setValue(0)
    theme.manager().set_appearance(theme.Appearance.LIGHT, high_contrast=True)
    save(window, folder / "settings-contrast.png")
    theme.manager().set_appearance(theme.Appearance.DARK, high_contrast=True)
    save(window, folder / "settings-contrast-dark.png")
    theme.manager().set_appearance(theme.Appearance.LIGHT)
    view.search.setText("penalty")
    save(window, folder / "settings-searched.png")
    view.search.setText("nothing of the kind")
    save(window, folder / "settings-nothing.png")
    view.search.clear()
    for name, size in (("narrow", NARROW), ("wide", WIDE)):
        window.resize(*size)
        for section in (Section.APPEARANCE, Section.SAMPLING, Section.RPC):
            view._go(view._parts[section])
            save(window, folder / f"settings-{section.name.lower()}-{name}.png")
    window.close()
    service.close()


def main() -> None:
    """All pictures."""
    with studio() as folder:
        photograph(folder)


if __name__ == "__main__":
    main()
