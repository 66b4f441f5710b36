"""Arguments, subcommands, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import pydantic

import app
from app import logs, paths
from app.catalog import names
from app.cli import bench as bench_command
from app.cli import chat as chat_command
from app.cli import load_options, machine, signals
from app.cli import models as models_command
from app.cli import on_disk as on_disk_command
from app.cli import plan as plan_command
from app.cli import pull as pull_command
from app.cli import recommend as recommend_command
from app.cli import sampling as sampling_options
from app.cli import settings as settings_command
from app.cli import share as share_command
from app.cli import tune as tune_command
from app.cli.doctor import doctor
from app.cli.split import with_split_mode
from app.errors import EXIT_CODES, AppError, ErrorKind
from app.hardware import text as hardware_text
from app.hardware.detect import detect
from app.settings.model import Settings
from app.settings.store import SettingsStore

log = logging.getLogger("app.cli")
_OF_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)
READER_GONE = 141
"""As shells tell a process that SIGPIPE ended."""
EXAMPLES = """examples:
  ultra-launcher                                open the window
  ultra-launcher detect                         what this machine has
  ultra-launcher models search nemotron         what there is, here and on the Hub
  ultra-launcher plan model.gguf --context 8192 what would run where
  ultra-launcher recommend nemotron-ultra-253b --gpus '8x RTX 3090'
  ultra-launcher plan hf:owner/repo/model.gguf  before it is downloaded
  ultra-launcher chat --model starter           chat in the terminal
  ultra-launcher bench --model starter          how fast it answers
  ultra-launcher settings reply_reserve 2048    change a setting
  ultra-launcher tune --model model.gguf        which split is the fastest
  ultra-launcher doctor                         all that a bug report needs

exit codes: 0 done, 1 internal error, 2 wrong use, 3 model file, 4 memory, 5 engine,
            6 disk, 7 hardware, 8 settings, 9 network, 129 hung up, 130 interrupted,
            141 reader gone, 143 terminated
"""


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong, as every other error is told."""

    def error(self, message: str) -> NoReturn:
        raise AppError(
            f"{message[:1].upper()}{message[1:]}.",
            hint=f"See `{self.prog} --help`.",
            kind=ErrorKind.USAGE,
        )


_Options = tuple[Callable[[argparse.ArgumentParser], None], ...]
_ARGUMENTS: tuple[tuple[str, str, str, _Options], ...] = (
    ("detect", "show GPUs, CPU, memory and disk", "detect --rpc 192.168.1.20:50052", ()),
    ("doctor", "show versions, backends, folders and a self-test", "doctor --json", ()),
    (
        "models",
        "list models: known, on this machine, on the Hub",
        "models search nemotron",
        (models_command.add_options,),
    ),
    (
        "show",
        "show all about a model, or the files of a repository",
        "show nemotron-ultra-253b",
        (models_command.add_show_options,),
    ),
    (
        "pull",
        "download a model; Ctrl+C pauses, again resumes",
        "pull hf:owner/repo:Q4_K_M",
        (pull_command.add_options,),
    ),
    (
        "verify",
        "hash a model's files again",
        "verify hf:owner/repo:Q4_K_M",
        (on_disk_command.add_verify_options,),
    ),
    (
        "rm",
        "delete a model's files",
        "rm hf:owner/repo:Q4_K_M --yes",
        (on_disk_command.add_rm_options,),
    ),
    (
        "bench",
        "measure how fast a model answers",
        "bench --model starter --json",
        (
            bench_command.add_options,
            load_options.add_options,
            load_options.add_layers,
            sampling_options.add_options,
        ),
    ),
    (
        "tune",
        "measure some splits and remember the fastest",
        "tune --model model.gguf",
        (tune_command.add_options, load_options.add_options),
    ),
    (
        "share-gpus",
        "lend this machine's devices",
        "share-gpus --host 192.168.1.20",
        (share_command.add_options,),
    ),
    (
        "settings",
        "show and change settings",
        "settings sampling.temperature 0.6",
        (settings_command.add_options,),
    ),
    (
        "plan",
        "show what of a model would run where",
        "plan model.gguf --context 8192",
        (plan_command.add_options, load_options.add_options, load_options.add_layers),
    ),
    (
        "recommend",
        "show which quantization, context and KV cache to take",
        "recommend nemotron-ultra-253b --gpus '8x RTX 3090'",
        (recommend_command.add_options,),
    ),
    (
        "hardware",
        "show the least hardware that runs a model",
        "hardware nemotron-ultra-253b:Q4_K_M --context 32768",
        (machine.add_model, load_options.add_context),
    ),
    (
        "chat",
        "chat in the terminal",
        "chat --model starter",
        (
            chat_command.add_options,
            load_options.add_options,
            load_options.add_layers,
            sampling_options.add_options,
        ),
    ),
)
"""Name, what it does, an example, and whose options it takes."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="ultra-launcher",
        description="Runs very large open models on the GPUs you own. Without a command it opens the window.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"ultra-launcher {app.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, words, example, add_options in _ARGUMENTS:
        command = commands.add_parser(
            name,
            help=words,
            description=words,
            epilog=f"example:\n  ultra-launcher {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", action="store_true", help="output for programs")
        command.add_argument(
            "--rpc", action="append", metavar="HOST:PORT", help="use an RPC server too"
        )
        for add in add_options:
            add(command)
    return top


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    logs.configure()
    try:
        code = _told(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()
        return READER_GONE
    except OSError as error:  # of the output alone
        sys.stderr.write(
            f"Error: The output cannot be written: {error.strerror}. "
            "Free some space where it goes, then give the same command again.\n"
        )
        with contextlib.suppress(OSError, ValueError):  # what is left of it would fail at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CODES[ErrorKind.DISK]
    return code


def _told(arguments: Sequence[str]) -> int:
    """Run one command, and tell what goes wrong."""
    try:
        return _run(parser().parse_args(arguments))
    except AppError as error:
        return _tell(error, as_json="--json" in arguments)
    except KeyboardInterrupt as stop:
        return signals.exit_code(stop)
    except Exception as bug:
        if isinstance(bug, OSError) and bug.filename is None and bug.errno in _OF_OUTPUT:
            raise  # nothing else writes without a name
        log.exception("a command failed")
        return _tell(
            AppError(
                "This should not have happened.",
                detail=f"{type(bug).__name__}: {bug}".rstrip(".") + ".",
                hint=f"Please report it with {logs.path()} and what `ultra-launcher doctor` says.",
            ),
            as_json="--json" in arguments,
        )


def _tell(error: AppError, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"type": "error", "title": error.title, "detail": error.detail,
                          "hint": error.hint, "kind": error.kind}))  # fmt: skip
    else:
        words = "\n".join(names.printable(line, 5_000) for line in str(error).splitlines())
        print(f"Error: {words}", file=sys.stderr)
    return error.exit_code


def _run(options: argparse.Namespace) -> int:
    return _COMMANDS[options.command](options, _settings(options))


def _settings(options: argparse.Namespace) -> Settings:
    """The stored settings with the options on top."""
    stored, notices = SettingsStore(paths.folders().config / "settings.json").load()
    for notice in notices:
        print(notice, file=sys.stderr)
    changes = {
        name: getattr(options, name)
        for name in ("context", "kv_type_k", "kv_type_v", "overflow")
        if getattr(options, name, None) is not None
    }
    if options.rpc:
        changes["rpc_servers"] = tuple(options.rpc)
    if getattr(options, "system", None) is not None:
        changes["system_prompt"] = options.system
    if options.command == "settings":
        return stored
    try:
        settings = Settings.model_validate(stored.model_dump() | changes)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = Settings.model_fields[str(first["loc"][0])].title or str(first["loc"][0])
        limits = first.get("ctx", {})
        words = first["msg"].removeprefix("Value error, ") + "."
        if "ge" in limits or "le" in limits:
            bounds = [
                f"at {w} {limits[k]:,}" for k, w in (("ge", "least"), ("le", "most")) if k in limits
            ]
            words = f"It is {' and '.join(bounds)}."
        raise AppError(
            f"{name}: {first['input']} is not possible.",
            detail=words,
            hint=f"See `ultra-launcher {options.command} --help`.",
            kind=ErrorKind.USAGE,
        ) from None
    return sampling_options.with_options(options, with_split_mode(options, settings))


def _detect(options: argparse.Namespace, settings: Settings) -> int:
    report = detect(model_folder=paths.folders().models, rpc_servers=settings.rpc_servers)
    print(json.dumps(hardware_text.to_json(report), indent=1) if options.json
          else hardware_text.describe(report))  # fmt: skip
    return 0


def _bench(options: argparse.Namespace, settings: Settings) -> int:
    return bench_command.bench(options, settings, machine.model_path(options.model))


def _tune(options: argparse.Namespace, settings: Settings) -> int:
    return tune_command.tune(options, settings, machine.model_path(options.model))


def _chat(options: argparse.Namespace, settings: Settings) -> int:
    return chat_command.chat(options, settings, machine.model_path(options.model))


_COMMANDS: dict[str, Callable[[argparse.Namespace, Settings], int]] = {
    "bench": _bench,
    "chat": _chat,
    "detect": _detect,
    "doctor": doctor,
    "hardware": recommend_command.hardware,
    "models": models_command.models,
    "plan": plan_command.plan,
    "recommend": recommend_command.recommend,
    "share-gpus": lambda options, _settings: share_command.share(options),
    "settings": settings_command.settings,
    "show": models_command.show,
    "tune": _tune,
    "pull": pull_command.pull,
    "rm": on_disk_command.remove,
    "verify": on_disk_command.verify_model,
}
