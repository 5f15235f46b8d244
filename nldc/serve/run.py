"""A server from a command line: its socket, its log, and how it ends."""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from nldc.runtime.errors import NldcRuntimeError
from nldc.serve.connections import CLOSING_SECONDS, Http, Sweep
from nldc.serve.outermost import JsonLines
from nldc.serve.service import Service

CONNECTIONS = 2048
"""Connections at a time; more are answered 503 at once."""


class Server(uvicorn.Server):
    """Told to end, it takes no new calls, lets those that run finish for `drain` seconds, and goes.

    Meanwhile it still answers: /ready says 503. Told again, it goes at once. `begun` is called with
    the port once it listens.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, begun: Callable[[int], None]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._begun: Callable[[int], None] | None = begun
        self._until: float | None = None
        self._sweep = Sweep()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take a signal. The second one never forces uvicorn, which would leave the engine's thread
        to a process that ends: calls end with an error, and then all is as with the first.
        """
        is_first = self._until is None
        self._service.draining = True
        self._until = time.monotonic() + self._service.settings.drain if is_first else 0.0

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether it is time to go, for connections or for itself."""
        self._sweep(self.server_state.connections)
        if self._begun is not None:
            self._begun(self.servers[0].sockets[0].getsockname()[1])
            self._begun = None
        if self._until is not None:
            if time.monotonic() > self._until:
                self._service.end_all()
                self.should_exit = True
            elif self._service.idle:
                self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens nowhere yet, but has its address.

    Raises:
        NldcRuntimeError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except OSError as problem:
        raise _no_address(host, port, problem) from problem
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as problem:
        found.close()
        raise _no_address(host, port, problem) from problem
    return found


def _no_address(host: str, port: int, problem: OSError) -> NldcRuntimeError:
    reason = (problem.strerror or str(problem)).lower()
    return NldcRuntimeError(
        f"cannot listen on {host}:{port}: {reason}",
        "choose another with --host and --port; --port 0 takes a free one",
    )


def server_of(app: FastAPI, begun: Callable[[int], None] = lambda _: None) -> Server:
    """Return what runs an application; `begun` is called with its port once it listens."""
    config = uvicorn.Config(
        app,
        http=Http,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(CLOSING_SECONDS),
    )
    return Server(config, app.state.service, begun)


def run(app: FastAPI, place: socket.socket, begun: Callable[[int], None]) -> None:
    """Serve an application until a signal ends it; its log goes to standard error, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    levels = {"nldc.serve": logging.INFO, "uvicorn.error": logging.WARNING}
    loggers = [logging.getLogger(name) for name in levels]
    before = [(each.handlers, each.propagate, each.level) for each in loggers]
    for each, level in zip(loggers, levels.values(), strict=True):
        each.handlers, each.propagate = [handler], False
        each.setLevel(level)
    try:
        server_of(app, begun).run(sockets=[place])
    finally:
        for each, (handlers, propagate, level) in zip(loggers, before, strict=True):
            each.handlers, each.propagate = handlers, propagate
            each.setLevel(level)
