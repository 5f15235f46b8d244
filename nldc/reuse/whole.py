"""A strategy's file with what it extends and what it includes, as one source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from nldc import source as source_
from nldc.diagnostics import Diagnostic, Label, StrategyError, with_ways
from nldc.reuse.expand import Expand
from nldc.reuse.fragment import FRAGMENT_FORM, check_fragment
from nldc.reuse.merge import merged
from nldc.reuse.reach import Chain, Reach
from nldc.reuse.tree import Tree, grown, spread, too_large, words
from nldc.schema import StrategyFile
from nldc.source import Source, Text


def load(path: str | FilePath) -> Source:
    """Read a strategy file with all that it reaches.

    Raises:
        StrategyError: with every mistake in how they are put together, or in one that is no YAML.
    """
    return resolve(source_.load(path))


def parse(text: str, name: str = "<text>") -> Source:
    """Read a strategy from its text, which reaches the library and packages, and no files.

    Raises:
        StrategyError: as `load`.
    """
    return resolve(source_.parse(text, name))


def resolve(source: Source) -> Source:
    """Return a file with what it extends and includes; one that does neither as it is.

    Raises:
        StrategyError: as `load`.
    """
    if not _reaches(source.data):
        return source
    try:
        return _Whole().of(source)
    except StrategyError as error:
        raise StrategyError(map(with_ways, error.diagnostics)) from None


def _reaches(data: Any) -> bool:
    """Whether a file extends another, or has fragments or includes."""
    if "extends" in data or "fragments" in data:
        return True
    steps = data.get("steps")
    regions = [data.get("prefill"), data.get("step")]
    return any(_includes(region) for region in (*regions, *_parts(steps)))


def _includes(region: Any) -> bool:
    return any(
        isinstance(node, Mapping) and ("include" in node or _includes(node.get("body")))
        for node in _parts(region)
    )


def _parts(data: Any) -> tuple[Any, ...]:
    return tuple(data.values()) if isinstance(data, Mapping) else ()


def _in_order(tree: Tree) -> Tree:
    """Return a strategy with its sections in the order of the language, whichever file had them."""
    order = {key: number for number, key in enumerate(StrategyFile.model_fields)}
    parts = sorted(tree.items.items(), key=lambda item: order.get(item[0], len(order)))
    return tree.having(dict(parts))


@dataclass
class _Whole:
    reach: Reach = field(default_factory=Reach)
    sources: dict[Text, tuple[Source, Chain]] = field(default_factory=dict)
    uses: list[str] = field(default_factory=list)
    found: list[Diagnostic] = field(default_factory=list)

    def of(self, source: Source) -> Source:
        chain = self.reach.begin(source)
        fragments = source.data.get("fragments")
        for name in fragments if isinstance(fragments, Mapping) else ():
            check_fragment(source, name, self.found)
        if "fragments" in source.data and not isinstance(fragments, Mapping):
            span = source.span(("fragments",))
            message = "`fragments` is not a mapping"
            label = Label(span, "expected fragments by name")
            self.found.append(Diagnostic(FRAGMENT_FORM, "error", message, (label,)))
        if "fragments" in source.data and not {"extends", "prefill", "step", "steps"} & set(
            source.data
        ):
            span = source.span(("fragments",), key=True)
            message = f"`{source.name}` holds fragments and no strategy"
            label = Label(span, "for strategies to include")
            self.found.append(Diagnostic(FRAGMENT_FORM, "error", message, (label,)))
        if self.found:
            raise StrategyError(self.found)
        tree = self._extended(source, chain)
        if self.found:
            raise StrategyError(self.found)
        self._bound(tree)
        expand = Expand(self.reach, self.sources, set(words(tree)), self.found)
        tree = expand.whole(tree)
        if self.found:
            raise StrategyError(self.found)
        self._bound(tree)
        data, spans = spread(_in_order(tree), source.file)
        return Source(
            source.name,
            source.text,
            data,
            spans,
            source.file,
            self.reach.files,
            (*self.uses, *expand.uses),
            tuple(expand.within),
        )

    def _extended(self, source: Source, chain: Chain) -> Tree:
        """Return a file's tree with all that it extends."""
        self.sources[source.file] = (source, chain)
        tree = grown(source)
        named = tree.items.get("extends")
        if named is None:
            keep = {key: part for key, part in tree.items.items() if key != "fragments"}
            return tree.having(keep)
        base, further = self.reach.open(
            named.value, named.span, source.file, chain, "extended here"
        )
        self.uses.append(f"{source.file.shown} extends {base.file.shown}")
        return merged(self._extended(base, further), tree, self.found)

    def _bound(self, tree: Tree) -> None:
        large = too_large(tree)
        if large is not None:
            raise StrategyError([large])
