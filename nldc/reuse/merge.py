"""A file that extends another: what it writes replaces, changes or takes away what is there.

In the parts that hold things by name a file writes only what differs. A node with an `op` or an
`include`, a param with a `type` and an adapter with a `kind` replace the whole of that name;
without one, only the keys that are written change. `null` takes a thing, or a key, away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nldc.diagnostics import Diagnostic, Label, nearest
from nldc.reuse.tree import Tree, names_of

NOT_THERE = "NLD022"

OWN = ("nldc", "name", "extends", "fragments")
"""Keys that no file has from another."""


@dataclass(frozen=True)
class _Form:
    """What a part of a file holds: things by name, which `whole` keys declare anew."""

    noun: str
    whole: tuple[str, ...] = ()


PARAM = _Form("param", ("type",))
ADAPTER = _Form("adapter", ("kind",))
NODE = _Form("node", ("op", "include"))
VALUE = _Form("key")

FORMS: Mapping[str, _Form] = {
    "params": PARAM,
    "adapters": ADAPTER,
    "limits": VALUE,
    "carry": VALUE,
    "route": VALUE,
}


def merged(base: Tree, own: Tree, found: list[Diagnostic]) -> Tree:
    """Return a file with what it extends; mistakes are added to `found`."""
    return _Merge(found).file(base, own)


@dataclass(frozen=True)
class _Merge:
    found: list[Diagnostic]

    def file(self, base: Tree, own: Tree) -> Tree:
        inherited = {key: part for key, part in base.items.items() if key not in OWN}

        def part(key: str, old: Tree | None, new: Tree) -> Tree:
            if key in ("prefill", "step"):
                return self.region(old, new)
            if key == "steps":
                return self.by_name(old, new, lambda _, was, now: self.region(was, now))
            if key in FORMS:
                return self.things(old, new, FORMS[key])
            return new

        kept = own.having({k: v for k, v in own.items.items() if k not in ("extends", "fragments")})
        return self.by_name(base.having(dict(inherited)), kept, part)

    def by_name(
        self, base: Tree | None, own: Tree, part: Callable[[str, Tree | None, Tree], Tree]
    ) -> Tree:
        """Return a mapping with its parts put together, those that are null taken away."""
        if base is None or not base.is_mapping or not own.is_mapping:
            base = own.having({})
        if not own.is_mapping:
            return own
        out = dict(base.items)
        for name, new in own.items.items():
            old = out.get(name)
            if new.value is not None:
                out[name] = part(name, old, new)
            elif old is not None:
                del out[name]
            else:
                self._nothing(name, new, base)
        return own.having(out)

    def things(self, base: Tree | None, own: Tree, form: _Form) -> Tree:
        """Return things by name, each replaced, or changed key by key."""

        def thing(name: str, old: Tree | None, new: Tree) -> Tree:
            if not form.whole or not new.is_mapping or any(key in new.items for key in form.whole):
                return new
            if old is None or not old.is_mapping:
                self._unknown(name, new, base, form)
                return new
            return self.by_name(old, new, self._key)

        return self.by_name(base, own, thing)

    def region(self, base: Tree | None, own: Tree) -> Tree:
        """Return the nodes of a region, or of a loop's body, and its `emit`."""
        nodes = Tree({}, own.place) if base is None else base
        emitted, written = names_of(base).get("emit"), own.items.get("emit")
        is_emit = written is not None and written.is_mapping and "op" not in written.items
        if not is_emit or written is None:
            return self.things(base, own, NODE)
        others = own.having({name: part for name, part in own.items.items() if name != "emit"})
        rest = {name: part for name, part in nodes.items.items() if name != "emit"}
        whole = self.things(nodes.having(rest) if nodes.is_mapping else nodes, others, NODE)
        emit = self.by_name(emitted, written, self._key)
        return own.having({**whole.items, "emit": emit})

    def _key(self, key: str, old: Tree | None, new: Tree) -> Tree:
        if key == "body":
            return self.region(old, new)
        if key in ("with", "next"):
            return self.things(old, new, VALUE)
        return new

    def _nothing(self, name: str, new: Tree, base: Tree) -> None:
        meant = nearest(name, base.items)
        label = f"did you mean `{meant}`?" if meant else "null takes away what is extended"
        self._add(f"there is no `{name}` to take away", new, label)

    def _unknown(self, name: str, new: Tree, base: Tree | None, form: _Form) -> None:
        meant = nearest(name, names_of(base))
        label = f"did you mean `{meant}`?" if meant else f"a new {form.noun} is written in full"
        keys = " or ".join(f"`{key}`" for key in form.whole)
        self._add(
            f"there is no {form.noun} `{name}` to change", new, label,
            f"with {keys} it is new, or replaces the whole; without, it changes what is extended",
        )  # fmt: skip

    def _add(self, message: str, new: Tree, label: str, *help_lines: str) -> None:
        self.found.append(
            Diagnostic(NOT_THERE, "error", message, (Label(new.key_span, label),), help_lines)
        )
