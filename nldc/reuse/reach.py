"""Which files a strategy may reach, and how many: below its own folder, the library, packages.

A strategy file is untrusted input. It names other files by a path that leads down from its own
folder and through no link out of it; what is given as text has no folder, and names none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from nldc import packages
from nldc.diagnostics import Diagnostic, Label, Span, StrategyError, nearest
from nldc.source import MAX_BYTES, TOO_LARGE, Source, Text, load

MAX_FILES = 16
MAX_CHAIN = 8
"""So many files may extend or include one another in a row."""

REFERENCE = "NLD020"
CYCLE = "NLD021"
FORMS = (
    "write the name of a strategy of the library, `package:name` of an installed package, or the "
    "path of a file below this one's folder, as in `shared/base.yaml`"
)

Chain = tuple[str, ...]
"""What led to a file: the file that was asked for first, each by what it is known by."""


@dataclass
class Reach:
    """The files that one strategy has reached so far, each read once."""

    sources: dict[str, Source] = field(default_factory=dict)
    size: int = 0

    def begin(self, source: Source) -> Chain:
        """Enter the file that was asked for, and return the chain that it begins."""
        key = source.file.name
        if source.file.folder is not None:
            key = str(Path(key).resolve())
        self.sources[key] = source
        self.size += len(source.text.encode("utf-8", "surrogatepass"))
        return (key,)

    def open(self, text: object, span: Span, asking: Text, chain: Chain, how: str) -> tuple[
        Source, Chain
    ]:  # fmt: skip
        """Return the file that a text at `span` of the file `asking` names, and the chain to it.

        `how` says beside the text what it does to the file.

        Raises:
            StrategyError: it names none, one that may not be reached, or one too many.
        """
        path, shown = _find(text, span, asking)
        key = str(path.resolve())
        if key in chain:
            message = f"`{text}` leads back to itself"
            raise refused(CYCLE, message, span, "this file is being read already")
        if len(chain) >= MAX_CHAIN:
            message = f"more than {MAX_CHAIN} files extend or include one another in a row"
            raise refused(CYCLE, message, span, "one too many")
        via = Label(span, how, primary=False)
        known = self.sources.get(key)
        if known is None:
            if len(self.sources) >= MAX_FILES:
                message = f"one strategy is put together of more than {MAX_FILES} files"
                raise refused(CYCLE, message, span, "one too many")
            known = load(path, via, shown)
            self.size += len(known.text.encode("utf-8", "surrogatepass"))
            if self.size > MAX_BYTES:
                message = f"together the files are larger than {MAX_BYTES // 1024} KiB"
                raise refused(TOO_LARGE, message, span, "too large with this one")
            self.sources[key] = known
        return replace(known, file=replace(known.file, via=via)), (*chain, key)

    @property
    def files(self) -> tuple[Text, ...]:
        """The files that were read, in order."""
        return tuple(source.file for source in self.sources.values())


def _find(text: object, span: Span, asking: Text) -> tuple[Path, str]:
    """Return the path of the file that is named, and what it is called on every machine."""
    if not isinstance(text, str) or not text:
        raise refused(REFERENCE, "a file is named by text", span, "expected text", FORMS)
    parts = packages.split(text)
    if parts is not None:
        try:
            return packages.find(*parts), text
        except packages.PackageError as problem:
            raise refused(REFERENCE, problem.message, span, "", problem.help) from None
    if packages.NAME.fullmatch(text):
        known = packages.library()
        if text in known:
            return known[text], text
        meant = nearest(text, known)
        label = f"did you mean `{meant}`?" if meant else "a file beside this one ends in `.yaml`"
        raise refused(REFERENCE, f"the library has no strategy `{text}`", span, label, FORMS)
    return _below(text, span, asking)


def _below(text: str, span: Span, asking: Text) -> tuple[Path, str]:
    """Return a file below the folder of the file that names it."""
    way = PurePosixPath(text)
    if way.suffix not in (".yaml", ".yml") or "\\" in text or ":" in text:
        raise refused(REFERENCE, f"`{text}` names no strategy and no file", span, "", FORMS)
    if way.is_absolute() or ".." in way.parts:
        message = f"`{text}` leads out of the folder of this file"
        raise refused(REFERENCE, message, span, "only files below it may be used", FORMS)
    if asking.folder is None:
        message = f"there is no folder for `{text}`: this strategy was given as text"
        label = "only the library and packages can be used here"
        raise refused(REFERENCE, message, span, label)
    path = asking.folder.joinpath(*way.parts)
    try:
        real, root = path.resolve(strict=True), asking.folder.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise refused(REFERENCE, f"there is no file `{path}`", span, "not found", FORMS) from None
    if not real.is_relative_to(root):
        message = f"`{text}` is a link that leads out of the folder of this file"
        raise refused(REFERENCE, message, span, "only files below it may be used")
    if not real.is_file():
        raise refused(REFERENCE, f"`{path}` is no file", span, "not a file", FORMS)
    return path, f"{_folder_of(asking.shown)}{way}"


def _folder_of(shown: str) -> str:
    """Return what the names of files beside a shown one begin with: `lib/`, `package:`, nothing."""
    for sign in ("/", ":"):
        if sign in shown:
            return shown[: shown.rindex(sign) + 1]
    return ""


def refused(
    code: str, message: str, span: Span, label: str, help_text: str | None = None
) -> StrategyError:
    """Return the error of one mistake."""
    help_lines = () if help_text is None else (help_text,)
    return StrategyError([Diagnostic(code, "error", message, (Label(span, label),), help_lines)])
