"""Photographs models and downloads in the real window, with a Hub on loopback.

`python -m tests.end_to_end.photograph_models FOLDER`
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from huggingface_hub import constants
from PySide6.QtWidgets import QApplication

from app.catalog import starter
from app.download.model import DownloadState
from app.errors import AppError
from app.gguf import bundled
from app.hardware import gpu_table
from app.plan.model import PlanHost
from app.plan.overview import Machine
from app.service import AppService
from app.units import GIB
from tests.end_to_end.photograph import NARROW, looks, save, wait
from tests.helpers import shards
from tests.helpers.faulty_hub import FaultyHub, faulty_hub
from tests.helpers.hub import Repo
from tests.helpers.machines import cards
from tests.helpers.split import split
from ui import theme
from ui.main_window import MainWindow

ULTRA = "bartowski/nvidia_Llama-3_1-Nemotron-Ultra-253B-v1-GGUF"
SMALL = "acme/SmolLM2-135M-Instruct-GGUF"
WIDE = 1280, 820


def imagined() -> Machine:
    """Eight RTX 3090 and 128 GiB of main memory."""
    known = gpu_table.find("RTX 3090")
    devices = tuple(
        dataclasses.replace(
            card,
            name="RTX 3090",
            bandwidth_bytes_per_s=known.bandwidth_bytes_per_s if known else None,
        )
        for card in cards([24] * 8)
    )
    return Machine(devices=devices, host=PlanHost(total_bytes=128 * GIB, available_bytes=120 * GIB))


@contextmanager
def hub_with_models(folder: Path) -> Iterator[FaultyHub]:
    """A Hub with the flagship, of which the headers are true, and with SmolLM2 in three shards."""
    model = starter.bundled_model()
    assert model is not None
    with faulty_hub() as server:
        constants.ENDPOINT = server.endpoint
        constants.HUGGINGFACE_CO_URL_TEMPLATE = (
            server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        for kind, count in (("Q4_K_M", 4), ("IQ4_XS", 4), ("Q8_0", 7)):
            stem = f"nvidia_Llama-3_1-Nemotron-Ultra-253B-v1-{kind}"
            layout = bundled.layout(f"nemotron-ultra-253b:{kind}")
            for file in shards.write(layout, folder / kind, stem, count):
                server.add(f"{ULTRA}/{stem}/{file.name}", file)
        for file in split(model, folder / "small", "SmolLM2-135M-Instruct-Q4_1", 33_000_000):
            server.add(f"{SMALL}/{file.name}", file)
        gguf = {"total": 253_401_268_224, "architecture": "deci", "context_length": 131_072}
        server.repos[ULTRA] = Repo(downloads=1_204, likes=31, gguf=gguf)
        small = {"total": 134_515_008, "architecture": "llama", "context_length": 8_192}
        server.repos[SMALL] = Repo(downloads=20_412, likes=9, gguf=small)
        server.repos["unsloth/Llama-3_3-Nemotron-Super-49B-v1_5-GGUF"] = Repo(
            downloads=8_310,
            gguf={"total": 49_867_145_216, "architecture": "deci", "context_length": 131_072},
        )
        server.repos["nvidia/Nemotron-H-47B-Reasoning-GGUF"] = Repo(
            downloads=410, gated=True, gguf={"total": 46_800_000_000, "architecture": "nemotron_h"}
        )
        yield server


class Camera:
    """Takes the window in both themes and sizes."""

    def __init__(self, window: MainWindow, folder: Path) -> None:
        self._window, self.folder = window, folder

    def take(self, name: str, *, narrow: bool = False, dark: bool = True) -> None:
        """`name.png`, `name-dark.png`, `name-narrow.png`."""
        for suffix in looks() if dark else ("",):
            save(self._window, self.folder / f"{name}{suffix}.png")
        if narrow:
            self._window.resize(*NARROW)
            save(self._window, self.folder / f"{name}-narrow.png")
            self._window.resize(*WIDE)


def main() -> None:
    """Each screen of models and downloads."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ["ULTRA_LAUNCHER_HOME"] = home
        app = QApplication(sys.argv[:1])
        theme.manager().install(app, theme.Appearance.LIGHT)
        with hub_with_models(Path(home) / "served") as server:
            service = AppService()
            window = MainWindow(service)
            window.resize(*WIDE)
            window.show()
            service.start(downloads=True)
            wait(lambda: window.models.view._scanned and service.planning.plan is not None)
            wait(lambda: window.models.view._fits and window.models.view._local_fits)
            camera = Camera(window, target)
            models(window, service, camera)
            downloads(window, service, server, camera)
            window.close()
            service.close()


def models(window: MainWindow, service: AppService, camera: Camera) -> None:
    """The list, the flagship's page here and on eight cards."""
    window.show_page("Models")
    page, view = window.models.page, window.models.view
    camera.take("models-here", narrow=True)
    window.models.open("nemotron-ultra-253b")
    wait(lambda: not page.reading.text() and page.questions.isVisible())
    wait(lambda: page.strip.isVisible() and page.hardware.isVisible())
    camera.take("model-here", dark=False)
    window.models.back()
    service.models._machine = imagined
    service.models.list_all()
    view.field.setText("nemotron")
    wait(lambda: view.hub.rows and view._fits["nemotron-ultra-253b"].size_bytes > 1e11)
    camera.take("models", narrow=True)
    window.models.open("nemotron-ultra-253b")
    wait(lambda: not page.reading.text() and page.questions.isVisible())
    wait(lambda: page.hardware.isVisible() and page.offer.kind == "download")
    camera.take("model", narrow=True)
    page._scroll.verticalScrollBar().setValue(560)
    camera.take("model-below", dark=False)
    page._scroll.verticalScrollBar().setValue(10_000)
    camera.take("model-end", dark=False)
    page._scroll.verticalScrollBar().setValue(0)


def downloads(window: MainWindow, service: AppService, server: FaultyHub, camera: Camera) -> None:
    """Running, paused, waiting, no space, done."""
    window.show_page("Downloads")
    view = window.downloads.view
    camera.take("downloads-empty", dark=False)
    service.change_download_rules(2_000_000, None)
    window.models.open(f"hf:{SMALL}")
    window.show_page("Models")
    page = window.models.page
    wait(lambda: page.offer.kind == "download")
    camera.take("repository", dark=False)
    other = service.folders.models.parent / "second disk"
    other.mkdir()
    service.files.use_folder(other)
    service.files.use_folder(service.folders.models)
    wait(lambda: len(page.place.menu.actions()) == 5)
    page.place.menu.ensurePolished()
    page.place.menu.adjustSize()
    page.place.menu.grab().save(str(camera.folder / "places.png"))
    page.primary.click()

    def state() -> DownloadState | None:
        found = service.downloads.all()
        return found[0].state if found else None

    wait(
        lambda: service.downloads.all() and service.downloads.all()[0].progress.written_bytes > 59e6
    )
    camera.take("downloads", narrow=True)
    view.board.pause.click()
    wait(lambda: state() is DownloadState.PAUSED)
    camera.take("downloads-paused", dark=False)
    server.outage.set()
    view.board.resume.click()
    wait(lambda: state() is DownloadState.WAITING)
    camera.take("downloads-waiting", dark=False)
    server.outage.clear()
    service.change_download_rules(None, None)
    found = service.models.sets_of("nemotron-ultra-253b")["Q4_K_M"]
    service.downloads.enqueue(found, "main")
    wait(lambda: len(service.downloads.all()) == 2)
    wait(lambda: all(d.state in ("done", "no_space") for d in service.downloads.all()))
    ultra = next(d for d in service.downloads.all() if d.state == "no_space")
    view.show_download(ultra.id)
    camera.take("downloads-no-space", dark=False)
    view.show_download(next(d for d in service.downloads.all() if d.state == "done").id)
    camera.take("downloads-done", dark=False)
    on_disk(window, service, camera)


def on_disk(window: MainWindow, service: AppService, camera: Camera) -> None:
    """A model on disk that is right, then one that is damaged."""
    window.show_page("Models")
    window.models.open(f"hf:{SMALL}")
    page = window.models.page
    wait(lambda: page.place.verify.isVisible() and not page.reading.text())
    page.place.verify.click()
    wait(lambda: page.check.state.word.text().startswith("All 3"))
    camera.take("on-disk", narrow=True)
    path = page.offer.path
    assert path is not None
    with path.open("r+b") as stream:
        stream.seek(20_000_000)
        stream.write(b"damage")
    page.place.verify.click()
    wait(lambda: page.check.mend.isVisible())
    page.show_error(AppError("The disk of /mnt/b is full.", hint="Free some space."))
    camera.take("on-disk-damaged")


if __name__ == "__main__":
    main()
