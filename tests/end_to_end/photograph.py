"""Photographs the window: `python -m tests.end_to_end.photograph FOLDER [real|machines]`.

`real`: the starter model on two RPC devices, loaded and asked. `machines`: the largest model on
machines that are described, planned by the real service.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QWidget

from app import paths
from app.engine.model import EngineState
from app.events import HardwareDetected, ModelChosen
from app.gguf import bundled
from app.plan.model import KvCacheType
from app.service import AppService
from app.settings.model import Settings, SplitMode
from tests.helpers import described
from tests.helpers.rpc import rpc_servers
from ui import theme
from ui.main_window import MainWindow

TIMEOUT_S = 25
NARROW = 960, 640
LONG = Settings(context=32_768, kv_type_k=KvCacheType.Q8_0, kv_type_v=KvCacheType.Q8_0)
EVEN = LONG.model_copy(update={"split_mode": SplitMode.EVEN})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A described machine, and what is asked of it."""

    name: str
    gpus: str
    ram_gib: int = 128
    backend: str = "cuda"
    kind: str = "Q4_K_M"
    settings: Settings = LONG
    split: str = ""
    unfold: bool = False


SCENES = (
    Scene(name="launcher-ultra", gpus="8x RTX 3090", split="split-ultra"),
    Scene(name="launcher-partly", gpus="6x RTX 3090", unfold=True),
    Scene(name="launcher-stranded", gpus="8x RX 7900 XTX", backend="vulkan"),
    Scene(name="launcher-too-large", gpus="8x RTX 3090", settings=EVEN, split="split-too-large"),
    Scene(name="launcher-remedies", gpus="8x RTX 3090", settings=Settings(context=131_072)),
    Scene(name="launcher-far-too-large", gpus="2x RTX 3090", ram_gib=32),
)


def wait(condition: Callable[[], object]) -> None:
    """Run the event loop until `condition`."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        QTest.qWait(20)


def looks() -> Iterator[str]:
    """Light, then dark: how the file's name ends."""
    for appearance in (theme.Appearance.LIGHT, theme.Appearance.DARK):
        theme.manager().set_appearance(appearance)
        QTest.qWait(100)
        yield "-dark" if appearance is theme.Appearance.DARK else ""
    theme.manager().set_appearance(theme.Appearance.LIGHT)


def save(widget: QWidget, path: Path) -> None:
    """Let it settle, then keep its picture."""
    QTest.qWait(150)
    widget.grab().save(str(path))


def real(folder: Path) -> None:
    """Ask the starter model something, then take each screen, light and dark."""
    with rpc_servers(2) as endpoints:
        service = AppService()
        service.settings = Settings(rpc_servers=endpoints, context=4096)
        window = MainWindow(service)
        window.show()
        service.start(load=True, meters=True)
        wait(
            lambda: service.engine.loaded is not None and service.engine.state is EngineState.READY
        )
        service.chat.send(
            "Write a Python function that adds two numbers, and explain it.", max_tokens=180
        )
        wait(
            lambda: (
                len(service.chat.messages) == 2 and service.chat.messages[-1].outcome != "running"
            )
        )
        window.open_split()
        dialog = window.dialog
        assert dialog is not None
        dialog._rows[0].number.setValue(14)
        wait(lambda: "checking" not in dialog._facts.text())
        for suffix in looks():
            for name, page in (("launcher", "Machine"), ("chat", "Chat")):
                window.show_page(page)
                save(window, folder / f"{name}{suffix}.png")
            save(dialog, folder / f"split{suffix}.png")
        window.resize(*NARROW)
        for name, page in (("launcher-narrow", "Machine"), ("chat-narrow", "Chat")):
            window.show_page(page)
            save(window, folder / f"{name}.png")
        measured(window, folder)
        dialog.close()
        window.close()
        service.close()


def measured(window: MainWindow, folder: Path) -> None:
    """Plans that are measured against each other, before and after."""
    assert window.dialog is not None
    window.dialog.fastest_button.click()
    tuner = window.tuner.dialog
    assert tuner is not None
    wait(tuner.start_button.isEnabled)
    save(tuner, folder / "tuner.png")
    tuner.start_button.click()
    wait(tuner.use_button.isVisible)
    for suffix in looks():
        save(tuner, folder / f"tuner-measured{suffix}.png")
    tuner.reject()


def machine(scene: Scene, folder: Path) -> None:
    """The launcher on a described machine, wide and narrow, and its split."""
    service = AppService()
    window = MainWindow(service)
    window.show()
    service.hardware.report = described.report(
        scene.gpus, ram_gib=scene.ram_gib, backend=scene.backend
    )
    service.planning.layout = bundled.layout(f"nemotron-ultra-253b:{scene.kind}")
    window.receive(HardwareDetected(report=service.hardware.report))
    window.receive(ModelChosen(layout=service.planning.layout))
    service.update_settings(scene.settings)
    wait(lambda: bool(window.launcher.outcome.verdict.text()))
    for suffix in looks():
        save(window, folder / f"{scene.name}{suffix}.png")
    if scene.unfold:
        window.launcher.card.apart.toggle.click()
        save(window, folder / f"{scene.name}-tensors.png")
        window.launcher.card.apart.toggle.click()
    if scene.split:
        window.open_split()
        dialog = window.dialog
        assert dialog is not None
        wait(lambda: "checking" not in dialog._facts.text())
        for suffix in looks():
            save(dialog, folder / f"{scene.split}{suffix}.png")
        dialog.resize(dialog.minimumSize())
        save(dialog, folder / f"{scene.split}-narrow.png")
        dialog.close()
    window.resize(*NARROW)
    save(window, folder / f"{scene.name}-narrow.png")
    window.close()
    service.close()


@contextlib.contextmanager
def studio() -> Iterator[Path]:
    """The application with folders of its own; yields where pictures go."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    app = QApplication(sys.argv[:1])
    theme.manager().install(app, theme.Appearance.LIGHT)
    with tempfile.TemporaryDirectory() as home:
        os.environ[paths.HOME_VARIABLE] = home
        yield folder


def main() -> None:
    """All pictures, or those of one sort."""
    wanted = sys.argv[2:] or ["real", "machines"]
    with studio() as folder:
        if "machines" in wanted:
            for scene in SCENES:
                machine(scene, folder)
        if "real" in wanted:
            real(folder)


if __name__ == "__main__":
    main()
