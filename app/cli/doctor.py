"""`doctor`: versions, backends, folders and a self-test, all that a question needs."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import app
from app import paths
from app.catalog import starter
from app.engine import protocol
from app.engine.once import load_once
from app.engine.safety import SafetyStore, engine_version
from app.errors import AppError
from app.hardware import text as hardware_text
from app.hardware.detect import detect
from app.settings.model import Settings


def _self_test(model: Path, data: Path) -> str:
    loaded = load_once(protocol.Load(model_path=str(model), context=512), data)
    step = SafetyStore(data / "safety.json", engine_version()).get()
    safer = f", with {step}" if step else ""
    return f"the starter model was loaded and decoded in {loaded.duration_s:.1f} s{safer}"


def doctor(options: argparse.Namespace, settings: Settings) -> int:
    """Print it all; the exit code says whether the engine works."""
    folders = paths.folders()
    report = detect(model_folder=folders.models, rpc_servers=settings.rpc_servers)
    facts = {
        "app": app.__version__,
        "engine": report.engine.version or report.engine.error,
        "backends": ", ".join(report.engine.backends),
        "python": platform.python_version(),
        "system": report.system,
        "config": str(folders.config),
        "data": str(folders.data),
        "models": str(folders.models),
        "cache": str(folders.cache),
        "logs": str(folders.logs),
    }
    try:
        facts["self-test"] = _self_test(starter.ensure(folders.models), folders.data)
        works = not report.engine.error
    except AppError as error:
        facts["self-test"], works = str(error), False
    if options.json:
        print(
            json.dumps({**facts, "ok": works, "hardware": hardware_text.to_json(report)}, indent=1)
        )
    else:
        print("\n".join(f"{name:10} {value}" for name, value in facts.items()))
        print("\n" + hardware_text.describe(report))
        print("\nEvidence:")
        print("\n".join(f"[{e.source}] {e.text}" for e in report.evidence))
    return 0 if works else 5
