"""The engine's child process: commands in on stdin, messages out on a private descriptor.

C code prints to fd 1, so the worker keeps a duplicate for the protocol and points fd 1 at stderr
before anything of llama.cpp is imported. When stdin ends, the parent is gone and so is the worker.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from typing import TextIO

from app.engine import protocol

COALESCE_S = 0.02


class Worker:
    """Reads commands in a thread, works on them in the main thread."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._commands: queue.Queue[protocol.Command] = queue.Queue()
        self._cancel = threading.Event()
        self._model: object | None = None

    def send(self, message: protocol.Message) -> None:
        """One line to the parent."""
        self._out.write(message.model_dump_json() + "\n")
        self._out.flush()

    def read_commands(self) -> None:
        """Runs in a thread: cancels act at once, the end of stdin ends the process."""
        for line in sys.stdin:
            try:
                command = protocol.command_adapter.validate_json(line)
            except ValueError as error:
                self.send(
                    protocol.Failed(stage="protocol", reason="other", detail=str(error)[:500])
                )
                continue
            if isinstance(command, protocol.Cancel):
                self._cancel.set()
            elif isinstance(command, protocol.Shutdown):
                break
            else:
                self._cancel.clear()
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
            elif isinstance(command, protocol.CountTokens):
                self._count(command)

    def _load(self, command: protocol.Load) -> None:
        from app.engine import llama

        try:
            model = llama.Model(command, self.send, self._cancel.is_set)
        except llama.LoadFailedError as error:
            self.send(protocol.Failed(stage="load", reason=error.reason, detail=error.detail))
            return
        self._model = model
        self.send(model.loaded())

    def _count(self, command: protocol.CountTokens) -> None:
        from app.engine import llama

        if not isinstance(self._model, llama.Model):
            self.send(protocol.Failed(stage="count", reason="other", detail="no model is loaded"))
            return
        try:
            tokens = len(self._model.prompt(command.messages, continue_last=False))
        except llama.TemplateError as error:
            self.send(protocol.Failed(stage="count", reason="template", detail=str(error)))
            return
        self.send(protocol.TokensCounted(request=command.request, tokens=tokens))

    def _generate(self, command: protocol.Generate) -> None:
        from app.engine import llama

        def failed(reason: str, detail: str) -> None:
            message = protocol.Failed(
                stage="generate", reason=reason, detail=detail, turn=command.turn
            )
            self.send(message)

        model = self._model
        if not isinstance(model, llama.Model):
            failed("other", "no model is loaded")
            return
        try:
            tokens = model.prompt(command.messages, continue_last=command.continue_last)
            if len(tokens) >= model.context_size:
                failed("context", f"{len(tokens)} of {model.context_size}")
                return
            _Turn(self, model, command, tokens).run()
        except llama.TemplateError as error:
            failed("template", str(error))
        except RuntimeError as error:
            failed("other", str(error))

    @property
    def cancelled(self) -> bool:
        """True if the running command shall end."""
        return self._cancel.is_set()


class _Turn:
    """One turn: prompt processing, then tokens until an end."""

    def __init__(
        self, worker: Worker, model: object, command: protocol.Generate, tokens: list[int]
    ) -> None:
        from app.engine import llama

        assert isinstance(model, llama.Model)  # noqa: S101 - narrows a lazily imported type
        self._worker, self._model, self._command, self._tokens = worker, model, command, tokens
        self._decoder = llama.TextDecoder()
        self._started = time.monotonic()
        self._first: float | None = None
        self._generated = 0
        self._pending = ""
        self._pending_tokens = 0
        self._sent_at = 0.0
        self._reused = 0

    def run(self) -> None:
        """Process the prompt and stream the answer."""
        for done, reused in self._model.prefill(self._tokens):
            self._reused = reused
            self._worker.send(
                protocol.PrefillProgressed(
                    turn=self._command.turn, done=done, total=len(self._tokens), reused=reused
                )
            )
        prefilled = time.monotonic()
        reason = "cancelled" if self._worker.cancelled else self._stream()
        now = time.monotonic()
        self._flush(final=True)
        self._worker.send(
            protocol.TurnFinished(
                turn=self._command.turn,
                reason=reason,
                prompt_tokens=len(self._tokens),
                reused_tokens=self._reused,
                generated_tokens=self._generated,
                prefill_s=prefilled - self._started,
                first_token_s=None if self._first is None else self._first - self._started,
                generate_s=0.0 if self._first is None else now - self._first,
                context_used=self._model.context_used,
                context=self._model.context_size,
            )
        )

    def _stream(self) -> protocol.EndReason:
        limit = self._command.max_tokens
        for piece in self._model.sample_loop(self._command.sampling):
            now = time.monotonic()
            if self._first is None:
                self._first = now
            if piece is None:
                return "stop"
            self._generated += 1
            self._pending += self._decoder.feed(piece)
            self._pending_tokens += 1
            if now - self._sent_at >= COALESCE_S:
                self._flush()
                self._sent_at = now
            if limit is not None and self._generated >= limit:
                return "length"
        return "cancelled" if self._worker.cancelled else "context"

    def _flush(self, *, final: bool = False) -> None:
        if final:
            self._pending += self._decoder.feed(b"", final=True)
        if not self._pending:
            return
        now = time.monotonic()
        self._worker.send(
            protocol.TokensGenerated(
                turn=self._command.turn,
                text=self._pending,
                tokens=self._pending_tokens,
                context_used=self._model.context_used,
                elapsed_s=now - (self._first if self._first is not None else now),
            )
        )
        self._pending, self._pending_tokens = "", 0


def main() -> None:
    """Take over the descriptors, then work."""
    private = os.dup(1)
    os.dup2(2, 1)
    Worker(os.fdopen(private, "w", encoding="utf-8")).run()


if __name__ == "__main__":
    main()
