"""What is known to be equal to what: tokens as terms, and the classes of equal ones.

AR's token at an offset from the end of the committed prefix is a term like any other, so that
"this is AR's choice" is one more equality. Equalities are only ever added, and only true ones, so
the order in which they are found does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Term = tuple[str | int, ...]
"""A token whose value is known only when a step runs; equal terms are equal tokens."""

MASK: Term = ("mask",)
"""The id that fills masked rows."""


def ar(offset: int) -> Term:
    """Return AR's token at an offset from the end of the committed prefix."""
    return ("ar", offset)


def choice(entry: int) -> Term:
    """Return what is sampled from the logits of a computed row."""
    return ("choice", entry)


def carried(name: str, element: int) -> Term:
    """Return an element of a carried value, as the step finds it."""
    return ("carry", name, element)


def made(node: str, element: int, *part: str) -> Term:
    """Return an element of a node's result of which nothing more is known.

    `part` tells apart several terms of one element.
    """
    return ("made", node, element, *part)


def unfilled(loop: str) -> Term:
    """Return what a row holds that a loop left masked."""
    return ("unfilled", loop)


def copied(loop: str) -> Term:
    """Return the EOS that a loop wrote into a row behind the one that holds it."""
    return ("copied", loop)


class Equalities:
    """Classes of equal terms; a term that was never mentioned is alone in its class."""

    def __init__(self, classes: Iterable[Iterable[Term]] = ()) -> None:
        self._parent: dict[Term, Term] = {}
        for members in classes:
            self.join(*members)

    def find(self, term: Term) -> Term:
        """Return the term that stands for the whole class."""
        parent = self._parent
        root = term
        while root in parent:
            root = parent[root]
        while term != root:
            parent[term], term = root, parent[term]
        return root

    def join(self, *terms: Term) -> bool:
        """Note that the terms are equal; return whether that was news."""
        roots = [self.find(term) for term in terms]
        news = False
        for root in roots[1:]:
            first = self.find(roots[0])
            root = self.find(root)
            if root != first:
                self._parent[root] = first
                news = True
        return news

    def equal(self, first: Term, second: Term) -> bool:
        """Whether the terms are known to be equal."""
        return first == second or self.find(first) == self.find(second)

    def offsets(self, term: Term) -> tuple[int, ...]:
        """Return the offsets at which AR's token is known to equal the term."""
        root = self.find(term)
        found = [other for other in (*self._parent, root) if other[0] == "ar"]
        return tuple(sorted({int(o[1]) for o in found if self.find(o) == root}))

    def members(self, term: Term) -> tuple[Term, ...]:
        """Return every term that is known to be equal to the term, itself included."""
        root = self.find(term)
        found = {other for other in self._parent if self.find(other) == root}
        return tuple(sorted({*found, root, term}, key=str))

    def classes(self, terms: Sequence[Term]) -> Mapping[Term, list[Term]]:
        """Return the given terms and every AR term by the representative of their class."""
        groups: dict[Term, list[Term]] = {}
        known = [term for term in self._parent if term[0] == "ar"]
        roots = {self.find(term) for term in self._parent}
        known += [root for root in roots if root[0] == "ar"]
        for term in dict.fromkeys((*terms, *known)):
            groups.setdefault(self.find(term), []).append(term)
        return groups


Invariant = frozenset[frozenset[Term]]
"""Classes of two and more equal terms, of carried elements and AR tokens: what every step finds."""


def meet(first: Invariant, second: Invariant) -> Invariant:
    """Return the equalities that hold in both."""
    both = {one & other for one in first for other in second}
    return frozenset(group for group in both if _says_something(group))


def invariant(equalities: Equalities, values: Mapping[Term, Term], shift: int) -> Invariant:
    """Return what is known of the values that the next step finds under the given terms.

    `values` maps carried terms to the terms that they become; AR's offsets are counted from an end
    that lies `shift` later.
    """
    named: dict[Term, set[Term]] = {}
    groups = equalities.classes(list(values.values()))
    for root, members in groups.items():
        named[root] = {ar(int(m[1]) - shift) for m in members if m[0] == "ar"}
    for name, term in values.items():
        named[equalities.find(term)].add(name)
    return frozenset(frozenset(g) for g in named.values() if _says_something(g))


def _says_something(group: Iterable[Term]) -> bool:
    members = list(group)
    return len(members) > 1 and any(member[0] == "carry" for member in members)
