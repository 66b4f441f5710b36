"""Time from the start of the process until the window is painted.

Run: `python -m tests.end_to_end.benchmarks.start_up [--runs 7]`
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

CHILD = "--child"


def child() -> None:
    """Open the window as the program does, and say how long it took."""
    import psutil
    from PySide6.QtCore import QEvent, QObject
    from PySide6.QtWidgets import QApplication

    from app.service import AppService
    from ui import theme
    from ui.main_window import MainWindow

    class Painted(QObject):
        """Sees the first paint of the window's page."""

        def eventFilter(self, _watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
            """Report and end at the first paint."""
            if event.type() == QEvent.Type.Paint:
                print(f"{time.time() - psutil.Process().create_time():.3f}", flush=True)
                QApplication.exit()
            return False

    app = QApplication(sys.argv[:1])
    service = AppService()
    theme.manager().install(app, theme.Appearance.LIGHT)
    window = MainWindow(service)
    painted = Painted()
    window.launcher.installEventFilter(painted)
    window.show()
    service.start()
    app.exec()
    service.close()


def main() -> None:
    """Run it several times, each in a process of its own with folders of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument(CHILD, action="store_true")
    options = parser.parse_args()
    if options.child:
        child()
        return
    times = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as home:
            environment = os.environ | {"ULTRA_LAUNCHER_HOME": home}
            if not environment.get("DISPLAY"):
                environment["QT_QPA_PLATFORM"] = "offscreen"
            command = [sys.executable, "-m", "tests.end_to_end.benchmarks.start_up", CHILD]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
        times.append(float(done.stdout.splitlines()[0]))
    shown = ", ".join(f"{value:.2f}" for value in sorted(times))
    print(f"window painted after {statistics.median(times):.2f} s (median of {shown})")


if __name__ == "__main__":
    main()
