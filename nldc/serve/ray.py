"""The server as a Ray Serve deployment: `serve run nldc.serve.ray:build artifacts=… model=…`.

Each replica is the application of `nldc serve`, with its own decoder and engine on its own device;
Ray's proxies send requests on, answers stream back through them. `app` is the same with arguments
from the environment, `NLDC_ARTIFACTS`, `NLDC_MODEL` and so on.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig, RequestRouterConfig
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nldc.runtime.errors import NldcRuntimeError
from nldc.serve.app import create_app
from nldc.serve.artifacts import load_together
from nldc.serve.options import settings_of
from nldc.serve.outermost import JsonLines
from nldc.serve.settings import Settings

BEFORE = "NLDC_"
"""How the variables begin that `app` reads."""
SESSIONS = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
AGAIN_AFTER = 2.0
"""Seconds after which a client may come again whose request found every queue full."""
HEALTH_EVERY = 5.0


class Args(BaseModel):
    """What `build` takes, by name, from a command line, a config file or `serve.run`.

    Of the model: as in `nldc serve`. Folders and files are those of the machines that replicas run
    on, so each must have them at the same place. `artifacts` and `cors_origins` may be one text
    with commas.

    Of the cluster: between `min_replicas` and `max_replicas` run, so many that each has about
    `target_ongoing_requests` (None: as many as it decodes at a time). Each has `gpus` GPUs (None:
    one where the cluster has any) and `cpus` CPUs. At most `max_waiting` requests wait at a proxy
    beside those that replicas have. With `affinity` to a session, requests that carry the same
    header `x-session-id` go to the same replica while it lives, whose cache then knows what they
    begin with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifacts: tuple[str, ...] = Field(min_length=1)
    model: str | None = None
    adapter: str | None = "auto"
    dtype: str | None = None
    backend: Literal["torch", "triton", "numba"] | None = None
    kv_memory: str | None = None
    name: str | None = None
    chat_template: str | None = None
    route: str | None = None
    temperature: float = Field(1.0, ge=0)
    max_live: int = Field(32, ge=1)
    max_queue: int = Field(256, ge=1)
    keep_prefixes: str | None = None
    max_prompt_tokens: int | None = Field(None, ge=1)
    max_new_tokens: int | None = Field(None, ge=1)
    deadline: float = Field(600.0, gt=0)
    drain: float = Field(30.0, ge=0)
    max_body: int = Field(4 << 20, ge=1)
    max_images: int = Field(16, ge=0)
    images_below: str | None = None
    api_key_file: str | None = None
    open_metrics: bool = False
    cors_origins: tuple[str, ...] = ()
    allow_special_tokens: bool = False
    log_prompts: bool = False

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float | None = Field(None, gt=0)
    max_waiting: int = Field(1024, ge=1)
    gpus: float | None = Field(None, ge=0)
    cpus: float = Field(1.0, ge=0)
    affinity: Literal["none", "session"] = "none"

    @field_validator("artifacts", "cors_origins", mode="before")
    @classmethod
    def _separated(cls, value: Any) -> Any:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @field_validator("adapter")
    @classmethod
    def _no_adapter(cls, value: str | None) -> str | None:
        return None if value == "none" else value

    def settings(self) -> Settings:
        """Return what the application of a replica is to know; reads the file of keys."""
        return settings_of(dict(self))


class WhichReplica:
    """Tells in the header `x-replica` which replica answered."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._header = (b"x-replica", name.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back with the header."""

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), self._header]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_named)


@serve.deployment(name="nldc")
@serve.ingress()
class Replica:
    """One decoder with its engine, behind the application of `nldc serve`."""

    def __init__(self, args: Args) -> None:
        _log_requests()
        kind, ways = load_together(args.artifacts)
        decoder = kind.from_checkpoint(
            args.model,
            adapter=args.adapter,
            dtype=args.dtype,
            backend=args.backend,
            kv_memory=args.kv_memory,
        )
        self._app = create_app(decoder, ways, args.settings())
        name = serve.get_replica_context().replica_id.unique_id
        self._app.add_middleware(WhichReplica, name=name)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return what answers requests."""
        return self._app

    def check_health(self) -> None:
        """Raise if the engine is broken: Ray then puts another replica in this one's place."""
        if self._app.state.service.worker.broken:
            raise RuntimeError("the engine is broken")


def _log_requests() -> None:
    """Write a line of JSON for each request to standard error, which Ray keeps of every process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("nldc.serve")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def build(args: Args | Mapping[str, Any]) -> Application:
    """Return the application for `serve run` and `serve deploy`, which give a mapping of texts.

    Raises:
        ValidationError: there is no such argument, or its value is not allowed.
    """
    args = Args.model_validate(args)
    target = args.target_ongoing_requests or args.max_live
    gpus = args.gpus if args.gpus is not None else _gpus_here()
    most = max(args.min_replicas, args.max_replicas)
    options: dict[str, Any] = {
        "ray_actor_options": {"num_gpus": gpus, "num_cpus": args.cpus},
        "autoscaling_config": AutoscalingConfig(
            min_replicas=args.min_replicas,
            initial_replicas=args.min_replicas,
            max_replicas=most,
            target_ongoing_requests=target,
        ),
        # Twice what is decoded at a time: the next are there when a sequence ends, and the rest
        # waits at the proxy, from where the first replica that has a place takes it.
        "max_ongoing_requests": max(2 * args.max_live, math.ceil(target)),
        "max_queued_requests": args.max_waiting,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=AGAIN_AFTER),
        "graceful_shutdown_timeout_s": args.drain,
        "health_check_period_s": HEALTH_EVERY,
    }
    if args.affinity == "session":
        options["request_router_config"] = RequestRouterConfig(request_router_class=SESSIONS)
    deployment: Any = Replica  # `deployment` of Ray makes it what mypy cannot know
    return deployment.options(**options).bind(_with_whole_paths(args))


def _with_whole_paths(args: Args) -> Args:
    """Return the arguments with paths that mean the same wherever a replica's process begins."""
    whole: dict[str, Any] = {"artifacts": tuple(map(_whole, args.artifacts))}
    for name in ("model", "adapter", "chat_template", "images_below", "api_key_file"):
        value = getattr(args, name)
        whole[name] = None if value is None else _whole(value)
    return args.model_copy(update=whole)


def _whole(path: str) -> str:
    """Return a path from the root on, if something is there: else it is a name, or elsewhere."""
    return str(Path(path).absolute()) if Path(path).exists() else path


def _gpus_here() -> float:
    """Return 1 where the cluster, or this machine if there is none yet, has a GPU."""
    if ray.is_initialized():
        return float(ray.cluster_resources().get("GPU", 0) > 0)
    from torch.cuda import is_available

    return float(is_available())


def args_of_environment() -> Args:
    """Return the arguments that `NLDC_ARTIFACTS`, `NLDC_MODEL`, `NLDC_MAX_REPLICAS`, … give.

    Raises:
        NldcRuntimeError: there is none for the artifacts.
    """
    names = {f"{BEFORE}{name.upper()}": name for name in Args.model_fields}
    given = {name: os.environ[key] for key, name in names.items() if os.environ.get(key)}
    if "artifacts" not in given:
        raise NldcRuntimeError(
            f"{BEFORE}ARTIFACTS is not set",
            "give it folders with commas between them, or use nldc.serve.ray:build artifacts=…",
        )
    return Args.model_validate(given)


def __getattr__(name: str) -> Any:
    """Return `app` when it is asked for: the environment counts then."""
    if name == "app":
        return build(args_of_environment())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
