"""The engine's child process: commands in on stdin, messages out on a private descriptor.

C code prints to fd 1, so the worker keeps a duplicate for the protocol and points fd 1 at stderr
before anything of llama.cpp is imported. When stdin ends, the parent is gone and so is the worker.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from pathlib import Path

from app import processes
from app.engine import protocol

log = logging.getLogger("app.engine.worker")


class Worker:
    """Reads commands in a thread, works on them in the main thread."""

    def __init__(self, out: int) -> None:
        """`out` is the descriptor that messages go to."""
        from app.engine.stop import StopFlag

        self._out = out
        self._sending = threading.Lock()
        self._commands: queue.Queue[protocol.Command] = queue.Queue()
        self._model: object | None = None
        self._turns = 0
        """Turns that were asked for and have not ended."""
        self._counting = threading.Lock()
        self.stop = StopFlag()

    def send(self, message: protocol.Message) -> None:
        """One line to the parent."""
        data = message.model_dump_json().encode() + b"\n"
        with self._sending:
            while data:
                data = data[os.write(self._out, data) :]

    def read_commands(self) -> None:
        """Runs in a thread: cancels act at once, the end of stdin ends the process."""
        for line in sys.stdin.buffer:
            try:
                command = protocol.read_command(line)
            except ValueError as error:
                self.send(
                    protocol.Failed(stage="protocol", reason="other", detail=str(error)[:500])
                )
                continue
            if isinstance(command, protocol.Cancel):
                self.stop.set()
            elif isinstance(command, protocol.Ping):
                self.send(protocol.Alive(turn=command.turn, running=self._turns > 0))
            elif isinstance(command, protocol.Shutdown):
                break
            else:
                if isinstance(command, protocol.Load | protocol.Generate):
                    self.stop.clear()
                if isinstance(command, protocol.Generate):
                    self._count_turns(1)
                self._commands.put(command)
        os._exit(0)

    def run(self) -> None:
        """Work until the process ends."""
        from app import ggml

        devices = ggml.devices()
        self.send(
            protocol.Hello(
                pid=os.getpid(),
                engine_version=ggml.engine_version(),
                backends=tuple(sorted({device.backend for device in devices})),
            )
        )
        threading.Thread(target=self.read_commands, name="commands", daemon=True).start()
        while True:
            command = self._commands.get()
            if isinstance(command, protocol.Load):
                self._load(command)
            elif isinstance(command, protocol.Generate):
                self._generate(command)
                self._count_turns(-1)
            elif isinstance(command, protocol.Snapshot):
                self._snapshot(command)

    def _count_turns(self, change: int) -> None:
        with self._counting:
            self._turns += change

    def _load(self, command: protocol.Load) -> None:
        from app.engine import llama

        try:
            model = llama.Model(command, self.send, self.stop)
        except llama.LoadFailedError as error:
            self.send(protocol.Failed(stage="load", reason=error.reason, detail=error.detail))
            return
        except Exception as error:
            log.exception("a load failed")
            detail = f"{type(error).__name__}: {error}"
            self.send(protocol.Failed(stage="load", reason="other", detail=detail))
            return
        self._model = model
        self.send(model.loaded())

    def _snapshot(self, command: protocol.Snapshot) -> None:
        from app.engine import llama
        from app.engine.sequence import StateError

        model, path = self._model, Path(command.path)
        try:
            if not isinstance(model, llama.Model):
                raise StateError("no model is loaded")
            sequence = model.sequence
            match command.action:
                case "save":
                    size = sequence.save(path)
                case "restore":
                    size = sequence.restore(path)
                case _:
                    size = sequence.state_bytes()
            tokens = len(sequence.tokens)
        except (StateError, OSError) as error:
            self.send(
                protocol.Failed(
                    stage="snapshot", reason="disk", detail=str(error), request=command.request
                )
            )
            return
        self.send(protocol.SnapshotDone(request=command.request, size_bytes=size, tokens=tokens))

    def _generate(self, command: protocol.Generate) -> None:
        from app.engine import llama, turn
        from app.engine.room import ContextFullError
        from app.engine.sampler import SamplingError
        from app.engine.sequence import DecodeError

        def failed(reason: str, detail: str, tokens: int = 0) -> None:
            message = protocol.Failed(
                stage="generate", reason=reason, detail=detail, turn=command.turn, tokens=tokens
            )
            self.send(message)

        model = self._model
        if not isinstance(model, llama.Model):
            failed("other", "no model is loaded")
            return
        try:
            turn.run(command, model, self.send, self.stop)
        except ContextFullError as error:
            failed("question" if error.alone else "context", str(error), error.tokens)
        except llama.TemplateError as error:
            failed("template", str(error))
        except SamplingError as error:
            failed("sampling", str(error))
        except DecodeError as error:
            failed(*model.why(error))
        except Exception as error:
            # A bug here must not cost a model that took minutes to load.
            log.exception("a turn failed")
            failed("other", f"{type(error).__name__}: {error}")


def main() -> None:
    """Take over the descriptors, then work."""
    processes.die_with_parent()
    private = os.dup(1)
    os.dup2(2, 1)
    Worker(private).run()


if __name__ == "__main__":
    main()
