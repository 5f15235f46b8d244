"""The page at `/`: what is served, and that it reads nothing from elsewhere."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from asking import with_client
from fastapi import FastAPI
from starlette.routing import Route

from nldc.serve.site import FILES, PATHS
from nldc.serve.watching import Origin

if TYPE_CHECKING:
    from conftest import Apps


def got(app: FastAPI, path: str) -> httpx.Response:
    return with_client(app, lambda one: one.get(path))


def source(name: str) -> str:
    return (files("nldc.serve") / "page" / name).read_text("utf-8")


@pytest.mark.parametrize("path", PATHS)
def test_every_file_of_the_page_is_served_and_may_only_ask_this_server(
    app: FastAPI, path: str
) -> None:
    answer = got(app, path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/page/site.py", "/page/../site.py", "/page/", "/page/page.html"])
def test_nothing_else_of_the_package_is_served(app: FastAPI, path: str) -> None:
    assert got(app, path).status_code == 404


def test_what_the_page_refers_to_is_served() -> None:
    page = source("index.html")
    asked = re.findall(r'(?:href|src)="(?!data:|#)([^"]+)"', page)
    asked += [
        f"page/{name}" for each in FILES for name in re.findall(r'from "\./([^"]+)"', source(each))
    ]
    assert {f"/{path}" for path in asked} == set(PATHS) - {"/"}


@pytest.mark.parametrize("name", FILES)
def test_the_page_names_no_address_of_elsewhere(name: str) -> None:
    outside = re.findall(r"https?://[^\s\"')]+", source(name))
    assert [each for each in outside if each != "http://www.w3.org/2000/svg"] == []
    assert "innerHTML" not in source(name)  # text of a model is text


def test_every_way_in_which_a_token_comes_to_be_has_a_colour_and_a_word() -> None:
    ways = Origin.__args__  # type: ignore[attr-defined]
    for way in ways:
        assert f".t.{way}" in source("page.css")
        assert f"\n  {way}: " in source("answer.js")


def test_the_page_is_open_where_requests_need_a_key(apps: Apps) -> None:
    app = apps(api_keys=("secret",))
    assert got(app, "/").status_code == 200
    assert got(app, "/v1/models").status_code == 401


def test_the_documentation_has_a_line_for_every_route(app: FastAPI) -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    table = text.partition("| route |")[2].partition("## ")[0]
    paths = [each.path for each in app.routes if isinstance(each, Route)]
    wanted = {path.replace("{name:path}", "NAME") for path in paths if path[:6] != "/page/"}
    told = re.findall(r"`(?:GET|POST) ([^`]+)`", table)
    assert {path for line in told for path in line.split(", ")} == wanted | {"/v1/models/NAME"}
