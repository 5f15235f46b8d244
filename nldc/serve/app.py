"""The application: its routes, and what each request passes on its way to one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from nldc import __version__
from nldc.runtime.decoder import Decoder
from nldc.serve.answers import ChatAnswer, CompletionAnswer, Model, ModelList, Status, Version
from nldc.serve.artifacts import Way
from nldc.serve.auth import OPEN, Auth
from nldc.serve.bodies import EventStream, read_body, unless_gone
from nldc.serve.choices import Choice
from nldc.serve.errors import ApiError
from nldc.serve.metrics import CONTENT_TYPE
from nldc.serve.openapi import Answers, answers, answers_of_bodies, body_of, with_schemas
from nldc.serve.outermost import NOTES, Outermost
from nldc.serve.protocol import ChatRequest, CompletionRequest, Sampled, read
from nldc.serve.reading import Answer
from nldc.serve.running import Running
from nldc.serve.service import Service
from nldc.serve.settings import Settings
from nldc.serve.shapes import ChatShape, CompletionShape, Shape
from nldc.serve.site import PATHS, add_page
from nldc.serve.strict_json import parse
from nldc.serve.traces import Traces


def create_app(
    decoder: Decoder,
    ways: Mapping[str, Way],
    settings: Settings,
    traces: Traces | None = None,
) -> FastAPI:
    """Return the application that serves a decoder; `app.state.service` is what its routes share.

    `ways` are the decoder's strategies, see `artifacts.load_together`; `traces` keep what their
    steps did, of classes that `traces.load` gave. Nothing is global: several
    applications may live in one process.

    Raises:
        NldcRuntimeError: the checkpoint has no tokenizer, or a setting cannot be used.
    """
    service = Service(decoder, ways, settings, traces)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        yield
        service.close()

    app = FastAPI(
        title="nldc", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.service = service
    _add_answers(app, service)
    _add_facts(app, service)
    add_page(app)
    app.exception_handler(ApiError)(_answered)
    app.exception_handler(HTTPException)(_as_api_error)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id"],
        )
    open_paths = [*OPEN, *PATHS, *(["/metrics"] if settings.open_metrics else [])]
    app.add_middleware(Auth, keys=settings.api_keys, open_paths=open_paths)
    app.add_middleware(Outermost)
    with_schemas(app, settings.model_name, ChatRequest, CompletionRequest)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/chat/completions",
        openapi_extra=body_of(ChatRequest),
        responses=answers_of_bodies(ChatAnswer),
    )
    async def chat(request: Request) -> Response:
        """Answer a conversation."""
        body = await read_body(request, service.settings, service.arriving)

        def make() -> tuple[Sampled, list[Answer]]:
            asked = read(ChatRequest, parse(body))
            service.check_model(asked.model)
            return asked, service.reader.chat(asked)

        return await _answer(request, service, ChatShape(), make)

    @app.post(
        "/v1/completions",
        openapi_extra=body_of(CompletionRequest),
        responses=answers_of_bodies(CompletionAnswer),
    )
    async def completions(request: Request) -> Response:
        """Continue texts."""
        body = await read_body(request, service.settings, service.arriving)

        def make() -> tuple[Sampled, list[Answer]]:
            asked = read(CompletionRequest, parse(body))
            service.check_model(asked.model)
            return asked, service.reader.completion(asked)

        return await _answer(request, service, CompletionShape(), make)


async def _answer(
    request: Request,
    service: Service,
    shape: Shape,
    make: Callable[[], tuple[Sampled, list[Answer]]],
) -> Response:
    asked, running = await service.begin(make)
    choices = service.choices(running)
    notes = request.scope[NOTES]

    def over() -> None:
        service.over(running)
        notes.update(_notes(service, asked, running, choices))

    if asked.stream:
        pieces = service.pieces(running, shape, asked, choices)
        return EventStream(pieces, over, running.seconds)
    try:
        work = service.whole(running, shape, asked, choices)
        return JSONResponse(await unless_gone(request.receive, work))
    finally:
        over()


def _notes(
    service: Service, asked: Sampled, running: Running, choices: list[Choice]
) -> dict[str, Any]:
    """Return what the log says of a call; texts only where the operator asks for them."""
    found: dict[str, Any] = {
        "stream": asked.stream,
        "prompt_tokens": sum(choice.prompt_tokens for choice in choices[:: asked.n]),
        "completion_tokens": sum(choice.tokens for choice in choices),
        "finish": [choice.finish for choice in choices],
        "strategies": sorted({name for choice in choices for name in choice.tally.strategies}),
    }
    if service.traces is not None:
        found["traces"] = [service.traces.name(each.request.id) for each in running.answers]
    if service.settings.log_prompts:
        decode = service.decoder.tokenizer.decode
        prompts = [answer.request.prompt for answer in running.answers[:: asked.n]]
        found["prompts"] = [decode(prompt, keep_special_tokens=True) for prompt in prompts]
        found["answers"] = [choice.reasoning + choice.content for choice in choices]
    return found


def _add_facts(app: FastAPI, service: Service) -> None:
    settings = service.settings
    brought = service.decoder.params_by_strategy()

    def model() -> dict[str, Any]:
        return {
            "id": settings.model_name,
            "object": "model",
            "created": service.started,
            "owned_by": "nldc",
            "max_model_len": service.decoder.config.context,
            "nldc": {
                "route": str(service.route),
                "strategies": {
                    name: {
                        "guarantee": way.guarantee,
                        "summary": way.summary,
                        "params": {
                            param.name: {
                                "type": param.kind,
                                "default": param.default,
                                "min": param.low,
                                "max": param.high,
                                "help": param.help,
                            }
                            for param in brought[name]
                        },
                    }
                    for name, way in service.ways.items()
                },
            },
        }

    @app.get("/v1/models", response_model=None, responses=answers(ModelList))
    async def models() -> dict[str, Any]:
        """List the one model, and its strategies."""
        return {"object": "list", "data": [model()]}

    @app.get(
        "/v1/models/{name:path}",
        response_model=None,
        responses=answers(Model, {404: "there is no such model"}),
    )
    async def one_model(name: str) -> dict[str, Any]:
        """Tell of the model by its name."""
        if name != settings.model_name:
            message = f"there is no model `{name[:80]}`; this server has `{settings.model_name}`"
            raise ApiError(404, message, "model", "model_not_found")
        return model()

    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses=_states("the engine is broken"))
    async def health() -> JSONResponse:
        """Tell whether the engine works: 503 if it is broken."""
        broken = service.worker.broken
        return JSONResponse({"status": "broken" if broken else "ok"}, 503 if broken else 200)

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", responses=_states("no new requests are taken"))
    async def ready() -> JSONResponse:
        """Tell whether new requests are taken: 503 while the server ends."""
        status = "ready" if service.ready else "draining"
        return JSONResponse({"status": status}, 200 if service.ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the numbers that Prometheus reads."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/version", response_model=None, responses=answers(Version))
    async def version() -> dict[str, str]:
        """Tell the version of nldc."""
        return {"version": __version__}


def _states(unwell: str) -> Answers:
    return {
        200: {"model": Status, "description": "all is well"},
        503: {"model": Status, "description": unwell},
    }


async def _answered(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, ApiError)
    return JSONResponse(problem.body(), problem.status, dict(problem.headers))


async def _as_api_error(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    known = {
        404: ("there is no such route", "not_found"),
        405: ("the route has no such method", "method_not_allowed"),
    }
    said, code = known.get(problem.status_code, (str(problem.detail), None))
    message = f"{said}: {request.method} {request.url.path[:200]}"
    found = ApiError(problem.status_code, message, None, code)
    return JSONResponse(found.body(), problem.status_code, problem.headers)
