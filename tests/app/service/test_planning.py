"""The plan in force while another one is worked out."""

from __future__ import annotations

import pytest

from app.errors import AppError
from app.events import PlanChanged
from app.plan.model import LoadPlan
from app.settings.model import Settings
from tests.app.service.test_ways_out import Client, client

__all__ = ["client"]


def test_the_plan_before_holds_until_there_is_another_or_none_is_possible(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.planned(context=512)
    planning = client.service.planning
    before, real = planning.plan, planning.preview
    meanwhile: list[LoadPlan | None] = []

    def slow(settings: Settings, *, limits: bool = True) -> LoadPlan | None:
        meanwhile.append(planning.plan)
        return real(settings, limits=limits)

    monkeypatch.setattr(planning, "preview", slow)
    client.service.refresh_hardware()
    client.until(PlanChanged)
    assert before is not None
    assert meanwhile == [before]

    def impossible(_settings: Settings, *, limits: bool = True) -> LoadPlan | None:
        raise AppError("The settings contradict the model.")

    monkeypatch.setattr(planning, "preview", impossible)
    with pytest.raises(AppError):
        planning.replan()
    assert planning.plan is None, "what cannot be planned leaves no plan of another model"
