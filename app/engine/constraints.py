"""Is a grammar or a JSON schema one? Asked of llama.cpp in a child, before any answer needs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from app import processes
from app.engine.protocol import Sampling

TIMEOUT_S = 60
"""Some schemas take for ever to turn into a grammar."""
_PARSE_ERROR = "error parsing grammar: "


def problem_of(sampling: Sampling, model: Path | None = None) -> str:
    """What is wrong with its grammar or JSON schema, as a sentence; "" if nothing is.

    Args:
        sampling: The options; all others are not looked at.
        model: A model file, for grammars that name tokens.
    """
    if not sampling.grammar and sampling.json_schema is None:
        return ""
    what = "grammar" if sampling.json_schema is None else "JSON schema"
    options = sampling.model_dump_json(include={"grammar", "json_schema"})
    try:
        child = subprocess.run(
            processes.child_command("app.engine.constraint_child"),
            input=f"{options}\n{model or ''}",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            env=processes.child_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"The {what} is too large: checking it took longer than {TIMEOUT_S} s."
    except OSError as error:
        return f"The {what} could not be checked: {error.strerror or error}."
    try:
        problem: str = json.loads(child.stdout)["problem"]
    except (ValueError, KeyError):
        return f"The {what} cannot be used: llama.cpp ended while it read it."
    if not problem:
        return ""
    return f"{problem[:1].upper()}{problem[1:]}{_details(child.stderr)}."


def _details(stderr: str) -> str:
    """What llama.cpp said about it."""
    lines = [line.strip() for line in stderr.splitlines()]
    for line in lines:
        if _PARSE_ERROR in line:
            return f": {line.split(_PARSE_ERROR, 1)[1].removesuffix(' at')}"
        if "does not contain a 'root' symbol" in line:
            return ": it has no rule named root"
        if "left recursion" in line:
            return ": a rule begins with itself"
    return ""
