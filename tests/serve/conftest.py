"""The demo model with a chat template and marks of thoughts, behind an application."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from asking import Live
from fastapi import FastAPI

from nldc import api
from nldc.runtime import Decoder
from nldc.serve.app import create_app
from nldc.serve.artifacts import Way, load_together
from nldc.serve.settings import Settings

NAMES = ("linear_ss", "ar", "quadratic_ss", "prompt_lookup", "block_diffusion")
TEMPLATE = """\
{%- for message in messages %}{{ message.role }}: {{ message.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}\
{% if enable_thinking %}({% endif %}"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, whose thoughts begin with `(` and end with `)`: tokens that it does write."""
    demo = Path(str(files("nldc"))) / "demo"
    folder = tmp_path_factory.mktemp("model") / "thinker"
    folder.mkdir()
    for path in demo.iterdir():
        if path.name not in ("tokenizer_config.json", "chat_template.jinja"):  # written anew
            (folder / path.name).symlink_to(path)
    words = json.loads((demo / "tokenizer.json").read_text())["model"]["vocab"]
    marks = {"start_think_token_id": words["("], "end_think_token_id": words[")"]}
    config = json.loads((demo / "tokenizer_config.json").read_text()) | marks
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "several"
    return api.compile(list(NAMES), out, {"block_length": 4}, certify=False)


@pytest.fixture(scope="session")
def loaded(artifact: Path, model: Path) -> tuple[Decoder, dict[str, Way]]:
    kind, ways = load_together([artifact])
    return kind.from_checkpoint(model, device="cpu"), ways


@pytest.fixture(scope="session")
def decoder(loaded: tuple[Decoder, dict[str, Way]]) -> Decoder:
    return loaded[0]


class Apps:
    """Makes applications on the one decoder, and closes them."""

    def __init__(self, decoder: Decoder, ways: dict[str, Way]) -> None:
        self._decoder = decoder
        self._ways = ways
        self._made: list[FastAPI] = []

    def __call__(self, **settings: object) -> FastAPI:
        app = create_app(self._decoder, self._ways, Settings(**settings))  # type: ignore[arg-type]
        self._made.append(app)
        return app

    def close(self) -> None:
        for app in self._made:
            app.state.service.close()


@pytest.fixture(scope="session")
def apps(loaded: tuple[Decoder, dict[str, Way]]) -> Iterator[Apps]:
    made = Apps(*loaded)
    yield made
    made.close()


@pytest.fixture(scope="session")
def app(apps: Apps) -> FastAPI:
    """An application as it is by itself, but greedy."""
    return apps(temperature=0.0)


@pytest.fixture(scope="session")
def live(app: FastAPI) -> Iterator[Live]:
    """The same on a port of this machine."""
    server = Live(app)
    yield server
    server.close()
