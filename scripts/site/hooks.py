"""What mkdocs needs to know of this repository: pages outside of docs/, long lists, no addresses.

Pages link to one another as files do, so that they read well on a code host. Links to files that
the site has under another name are rewritten; of those that it does not have the text stays.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    **{
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "benchmarks").rglob("*.md"))
    },
}
"""Pages of the repository that are not in docs/, and where the site has them."""
INSIDE = {place: path for path, place in OUTSIDE.items()}
LINK = re.compile(r"\[([^\]\[]*)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]+)?\)")
FENCED = re.compile(r"^(```.*?^```)$", re.DOTALL | re.MULTILINE)
LOADS = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
)
"""Elements that make a browser ask another address."""


def on_config(config: Any) -> Any:
    """Write `FOLDER/*` of the navigation out: the pages of a folder that it does not name."""
    named = set(_named(config["nav"]))
    config["nav"] = [_whole(entry, Path(config["docs_dir"]), named) for entry in config["nav"]]
    return config


def _named(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for each in entry.values():
            yield from _named(each)
    else:
        for each in entry:
            yield from _named(each)


def _whole(entry: Any, docs: Path, named: set[str]) -> Any:
    if not isinstance(entry, dict):
        return entry
    ((title, pages),) = entry.items()
    if not isinstance(pages, list):
        return entry
    found: list[Any] = []
    for page in pages:
        if isinstance(page, str) and page.endswith("*"):
            paths = sorted((docs / page).parent.glob("*.md"))
            listed = [path.relative_to(docs).as_posix() for path in paths]
            found += [path for path in listed if path not in named]
        else:
            found.append(_whole(page, docs, named))
    return {title: found}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for path, place in OUTSIDE.items():
        text = (ROOT / path).read_text("utf-8")
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001
    """Make links between files of the repository links between pages of the site."""
    place = page.file.src_uri
    source = INSIDE.get(place, f"docs/{place}")

    def rewritten(found: re.Match[str]) -> str:
        text, target, heading = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path.startswith("strategies/") and path.endswith(".yaml"):
            there, heading = f"gallery/{Path(path).stem}.md", ""
        elif path.startswith("docs/"):
            there = path.removeprefix("docs/")
        elif path in OUTSIDE:
            there = OUTSIDE[path]
        elif (ROOT / path).exists():
            return text
        else:
            raise PluginError(f"{source}: {target} is no file")
        return f"[{text}]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{heading})"

    parts = FENCED.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(rewritten, part) for part in parts)


def on_post_page(output: str, page: Any, config: Any) -> str:  # noqa: ARG001
    """Refuse a page that would make a browser ask another address."""
    found = LOADS.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {found[0]}")
    return output
