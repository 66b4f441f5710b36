"""What happens in the service when a setting changes."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.events import (
    AppEvent,
    LibraryScanned,
    OperationFailed,
    PlanChanged,
    SettingRefused,
    SettingsChanged,
)
from app.plan.model import KvCacheType
from app.service import AppService
from app.settings.entries import entry
from app.settings.text import SettingError
from tests.helpers import described
from tests.helpers.small_models import sliding_window

TIMEOUT_S = 60


class Desk:
    """A service and what it says."""

    def __init__(self) -> None:
        self.service = AppService()
        self.events: queue.Queue[AppEvent] = queue.Queue()
        self.service.subscribe(self.events.put)

    def until(self, wanted: Callable[[AppEvent], bool]) -> list[AppEvent]:
        seen = []
        while True:
            seen.append(self.events.get(timeout=TIMEOUT_S))
            if wanted(seen[-1]):
                return seen

    def until_stored(self, **values: object) -> list[AppEvent]:
        def stored(event: AppEvent) -> bool:
            if not isinstance(event, SettingsChanged):
                return False
            return event.settings.model_dump().items() >= values.items()

        return self.until(stored)

    def failure(self) -> str:
        last = self.until(lambda event: isinstance(event, OperationFailed))[-1]
        assert isinstance(last, OperationFailed)
        return str(last.error)

    def plan(self, model: Path) -> None:
        """Choose a model on a described machine."""
        self.service.hardware.report = described.report("1x RTX 3090", ram_gib=32)
        self.service.choose_model(model)
        self.until(lambda event: isinstance(event, PlanChanged))


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.service.close()


def stored(home: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(next(home.rglob("settings.json")).read_text())
    return found


def test_a_setting_is_in_force_at_once_stored_and_told(desk: Desk, home: Path) -> None:
    desk.service.put_setting(entry("reply_reserve"), 2048)
    assert desk.service.settings.reply_reserve == 2048
    desk.until_stored(reply_reserve=2048)
    assert stored(home)["reply_reserve"] == 2048
    with pytest.raises(SettingError):
        desk.service.put_setting(entry("reply_reserve"), -1)
    assert desk.service.settings.reply_reserve == 2048
    desk.service.reset_setting(entry("reply_reserve"))
    desk.until_stored(reply_reserve=1024)


def test_what_waits_when_the_app_ends_is_stored(desk: Desk, home: Path) -> None:
    for tokens in range(1, 40):
        desk.service.put_setting(entry("reply_reserve"), tokens)
    desk.service.close()
    assert stored(home)["reply_reserve"] == 39


def test_only_what_plans_depend_on_is_planned_again(desk: Desk, starter_model: Path) -> None:
    desk.plan(starter_model)
    desk.service.put_setting(entry("temperature"), 0.2)
    desk.service.put_setting(entry("system_prompt"), "Be brief.")
    desk.until_stored(system_prompt="Be brief.")
    desk.service.put_setting(entry("context"), 1024)
    desk.service.put_setting(entry("temperature"), 0.3)
    seen = desk.until(lambda event: isinstance(event, PlanChanged))
    plan = seen[-1]
    assert isinstance(plan, PlanChanged)
    assert plan.plan.context == 1024, "the change that no plan depends on does not hide the other"
    assert sum(isinstance(event, PlanChanged) for event in seen) == 1


def test_the_same_again_is_planned_again(desk: Desk, starter_model: Path) -> None:
    desk.plan(starter_model)
    desk.service.update_settings(desk.service.settings)
    desk.until(lambda event: isinstance(event, PlanChanged))


def test_a_grammar_is_checked_before_it_is_stored(desk: Desk, starter_model: Path) -> None:
    desk.plan(starter_model)
    grammar = entry("grammar")
    desk.service.put_setting(grammar, "root ::= (")
    refused = desk.until(lambda event: isinstance(event, SettingRefused))[-1]
    assert isinstance(refused, SettingRefused)
    assert (refused.key, refused.value) == ("sampling.grammar", "root ::= (")
    assert "expecting" in refused.problem
    assert desk.service.settings.sampling == {}
    desk.service.put_setting(grammar, 'root ::= <|im_start|> "a"')
    desk.until_stored(sampling={"grammar": 'root ::= <|im_start|> "a"'})
    desk.service.put_setting(grammar, "")
    desk.until_stored(sampling={"grammar": ""})


def test_rules_of_downloads_hold_at_once(desk: Desk) -> None:
    desk.service.put_setting(entry("download_limit"), 5_000_000)  # before the queue runs
    desk.service.downloads.start(None, None)
    desk.service.put_setting(entry("download_limit"), 3_000_000)
    desk.until_stored(download_limit=3_000_000)

    def limit() -> int | None:
        manager = desk.service.downloads._manager
        return manager._limiter.bytes_per_s if manager is not None else None

    deadline = time.monotonic() + TIMEOUT_S
    while limit() != 3_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_another_folder_of_models_is_looked_into(desk: Desk, tmp_path: Path) -> None:
    desk.service.put_setting(entry("model_folders"), [str(tmp_path)])
    desk.until(lambda event: isinstance(event, LibraryScanned))


def test_settings_that_contradict_a_model_leave_no_plan_of_another_one(
    desk: Desk, starter_model: Path, tmp_path: Path
) -> None:
    desk.plan(starter_model)
    small = sliding_window(tmp_path / "small.gguf")
    q8 = {"kv_type_k": KvCacheType.Q8_0, "kv_type_v": KvCacheType.Q8_0}
    desk.service.choose_model(small, load=True, changes=q8)
    assert "q8_0 does not suit" in desk.failure()
    assert desk.service.planning.plan is None
    assert desk.service.settings.model_path == str(small), "it is chosen all the same"
    desk.service.engine.load()
    assert "q8_0 does not suit" in desk.failure(), "what is wrong is said again"
    f16 = {"kv_type_k": KvCacheType.F16, "kv_type_v": KvCacheType.F16}
    desk.service.update_settings(desk.service.settings.model_copy(update=f16))
    desk.until(lambda event: isinstance(event, PlanChanged))
    assert desk.service.planning.plan is not None
    assert desk.service.planning.plan.block_count < 30


def test_a_model_that_cannot_be_read_changes_nothing(
    desk: Desk, starter_model: Path, tmp_path: Path
) -> None:
    desk.plan(starter_model)
    before, plan = desk.service.settings, desk.service.planning.plan
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    desk.service.open_model(broken, context=4096, kv_type=KvCacheType.Q4_0)
    assert "broken.gguf" in desk.failure()
    assert desk.service.settings == before
    assert desk.service.planning.plan == plan


def test_changes_from_several_threads_all_hold_and_are_stored(desk: Desk, home: Path) -> None:
    interval = sys.getswitchinterval()

    def prompts() -> None:
        for number in range(300):
            desk.service.set_system_prompt(str(number))

    def rules() -> None:
        for number in range(300):
            desk.service.change_download_rules(1000 + number, None)

    threads = [threading.Thread(target=prompts), threading.Thread(target=rules)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    desk.service.close()
    found = stored(home)
    assert (found["system_prompt"], found["download_limit"]) == ("299", 1299)
