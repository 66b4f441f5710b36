"""The union of all events that the core sends, so that a `match` over them is checked exhaustively."""

from __future__ import annotations

import dataclasses

from app.chat.session import ChatEvent
from app.engine.model import EngineEvent
from app.errors import AppError
from app.gguf.model import ModelLayout
from app.hardware.model import HardwareReport, HardwareSampled
from app.plan.model import LoadPlan
from app.settings.model import Settings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HardwareDetected:
    """The machine was looked at."""

    report: HardwareReport


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelChosen:
    """A model file's header was read; no plan for it yet."""

    layout: ModelLayout


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanChanged:
    """There is a new plan for the chosen model on this machine."""

    plan: LoadPlan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanPreviewed:
    """The exact plan that other settings would give, or why they give none; nothing was changed."""

    settings: Settings
    plan: LoadPlan | None
    error: AppError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChanged:
    """The settings were changed and stored."""

    settings: Settings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRaised:
    """Something to tell in one line; nothing failed."""

    sentence: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OperationFailed:
    """Something that the person asked for did not work."""

    error: AppError


AppEvent = (
    HardwareDetected
    | HardwareSampled
    | ModelChosen
    | PlanChanged
    | PlanPreviewed
    | SettingsChanged
    | NoticeRaised
    | OperationFailed
    | EngineEvent
    | ChatEvent
)
