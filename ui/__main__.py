"""`ultra-launcher`: the window without arguments, the command line with them."""

from __future__ import annotations

import os
import runpy
import sys

from app import processes


def main() -> int:
    """The program's entry; returns the exit code."""
    try:
        return _main(sys.argv[1:])
    except KeyboardInterrupt:  # while modules are still read; later, commands see to it themselves
        return 130


def _main(arguments: list[str]) -> int:
    if arguments[:1] == [processes.CHILD_SWITCH]:
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__")
        return 0
    if wrong := processes.strange_endpoint():
        sys.stderr.write(f"Error: {wrong}\n")
        return 2
    if arguments:
        from app.cli import main as command_line

        return command_line(arguments)
    if sys.platform.startswith("linux") and not has_display():
        from app.cli import main as command_line

        sys.stderr.write("No display found: the chat opens in this terminal.\n")
        return command_line(["chat", "--model", "starter"])
    return window()


def has_display() -> bool:
    """True if a window can be shown."""
    offscreen = os.environ.get("QT_QPA_PLATFORM", "").startswith("offscreen")
    return offscreen or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def window() -> int:
    """Open the window; everything slow happens behind it."""
    from PySide6.QtWidgets import QApplication

    from app import logs
    from app.service import AppService
    from ui import theme
    from ui.collector import Collector
    from ui.main_window import MainWindow

    logs.configure()
    app = QApplication(sys.argv[:1])
    app.setApplicationName("Ultra Launcher")
    service = AppService()
    look = theme.Appearance(service.settings.appearance)
    theme.manager().install(app, look, high_contrast=service.settings.high_contrast)
    Collector(app)
    main_window = MainWindow(service)
    main_window.show()
    service.start(load=service.settings.model_path is None, meters=True, downloads=True)
    code = app.exec()
    service.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
