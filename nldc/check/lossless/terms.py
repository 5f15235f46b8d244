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
    """Classes of equal terms; a term that was never mentioned is alone in its class.

    Every term knows the one that stands for its class, and that one all members: a question costs
    a look-up, and joining two classes relabels the smaller.
    """

    def __init__(self, classes: Iterable[Iterable[Term]] = ()) -> None:
        self._root: dict[Term, Term] = {}
        self._members: dict[Term, list[Term]] = {}
        for members in classes:
            self.join(*members)

    def find(self, term: Term) -> Term:
        """Return the term that stands for the whole class."""
        return self._root.get(term, term)

    def join(self, *terms: Term) -> bool:
        """Note that the terms are equal; return whether that was news."""
        news = False
        for term in terms[1:]:
            news |= self._unite(self.find(terms[0]), self.find(term))
        return news

    def _unite(self, first: Term, other: Term) -> bool:
        if first == other:
            return False
        ours, theirs = (self._members.pop(root, [root]) for root in (first, other))
        if len(ours) < len(theirs):
            first, ours, theirs = other, theirs, ours
        self._root.update(dict.fromkeys(theirs, first))
        ours += theirs
        self._members[first] = ours
        return True

    def equal(self, first: Term, second: Term) -> bool:
        """Whether the terms are known to be equal."""
        return first == second or self.find(first) == self.find(second)

    def offsets(self, term: Term) -> tuple[int, ...]:
        """Return the offsets at which AR's token is known to equal the term."""
        members = self._class(term)
        return tuple(sorted(int(member[1]) for member in members if member[0] == "ar"))

    def members(self, term: Term) -> tuple[Term, ...]:
        """Return every term that is known to be equal to the term, itself included."""
        return tuple(sorted(self._class(term), key=str))

    def _class(self, term: Term) -> Sequence[Term]:
        root = self.find(term)
        return self._members.get(root, (root,))

    def classes(self, terms: Sequence[Term]) -> Mapping[Term, list[Term]]:
        """Return the given terms and every AR term by the representative of their class."""
        groups: dict[Term, list[Term]] = {}
        known = [term for members in self._members.values() for term in members]
        for term in dict.fromkeys((*terms, *(term for term in known if term[0] == "ar"))):
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
