"""Random strategies of loops that promise nothing, and where one of them emits what it must not.

`python -m tests.lossless.loops_at_random COUNT [SEED]` tries that many files. Those that the
checker takes are run with tokens that remember whether `sample` chose them; one that emits another
(a mask, a copy, a token of the prompt or of a lookup) is printed whole and ends the run.
"""
# ruff: noqa: E501, ISC004  (templates of YAML lines, which do not wrap)

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from nldc import interpret
from nldc.check.lossless.constraints import constraints
from nldc.diagnostics import StrategyError
from nldc.interpret import Entry, HeldRows, run, seeded
from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.reuse import parse
from tests.lossless.hash_model import with_only
from tests.lossless.masks_at_random import masked_again

HEAD = """nldc: 1
name: loops
summary: Made at random.
guarantee: none
adapters:
  judge: {kind: sampler, optional: true}
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed: {op: sample, logits: context.last}
  found: {op: lookup, length: 2, ngram: 1}
  last: {op: join, parts: ["$prompt.last"]}
"""


EOS = ((1, 2), (2,), (), (2, 1))
"""The ids that may end a sequence, in the order of a checkpoint's list."""


class Chosen(int):
    """A token that `sample` chose."""


@dataclass
class Guesser:
    """A model whose logits are drawn anew for every row: every way through a loop is taken."""

    random: Random
    vocabulary: int = 4
    mask_token_id: int = 3
    eos: tuple[int, ...] = (1, 2)
    _rows: list[list[float]] = field(default_factory=list)

    def logits(self, entries: Sequence[Entry]) -> Sequence[Sequence[float]]:
        """Return the logits of every entry; some rows are sure, often of an EOS."""
        for _ in entries[len(self._rows) :]:
            row = [self.random.random() * self.random.choice((0.1, 3.0)) for _ in range(4)]
            if self.random.random() < 0.4:
                row[self.random.choice((0, 1, 1, 2, 2, 3))] += 4.0
            self._rows.append(row)
        return self._rows


def choose(logits: Sequence[float], position: int) -> int:
    """Return a token that knows it was chosen."""
    return Chosen(interpret.greedy(logits, position))


@contextmanager
def copies_are_not_chosen() -> Iterator[None]:
    """While this holds, an EOS that a loop copies is no token that `sample` chose."""
    plain = interpret.fill_after_eos

    def fill(held: HeldRows, eos: Sequence[int]) -> HeldRows:
        after = plain(held, eos)
        tokens = (
            int(new) if was else new for new, was in zip(after.tokens, held.masked, strict=True)
        )
        return HeldRows(tuple(tokens), after.masked)

    interpret.fill_after_eos = fill  # type: ignore[assignment]
    try:
        yield
    finally:
        interpret.fill_after_eos = plain


def emits_unchosen(graph: Graph, tries: int, seed: int) -> tuple[int, ...] | None:
    """Return the tokens of a run in which one was emitted that no `sample` chose."""
    random = Random(seed)
    with copies_are_not_chosen():
        for number in range(tries):
            prompt = [random.randrange(4) for _ in range(random.randint(1, 4))]
            alone = with_only(graph, random.choice(graph.steps))
            model = Guesser(Random(random.random()), eos=random.choice(EOS))
            noise = seeded(number)
            result = run(alone, model, prompt, 14, choose, most_steps=20, noise=noise)
            if not all(isinstance(token, Chosen) for token in result.tokens):
                return result.tokens
    return None


# Files


@dataclass
class Maker:
    """Makes a file; `pick` of several takes the plain one, the first, more often."""

    random: Random
    care: float
    names: int = 0

    def pick(self, *options: str) -> str:
        return options[0] if self.random.random() < self.care else self.random.choice(options)

    def any(self, *options: str) -> str:
        return self.random.choice(options)

    def name(self, stem: str) -> str:
        self.names += 1
        return f"{stem}{self.names}"

    # Parts

    def number(self, size: int) -> str:
        return self.pick(
            "1", "2", "iteration + 1", "left", "left // 2", "left // 2 + 1", "1 - iteration",
            "iteration", "left % 2 * 3 + left // 4", "left - 1", "2 - left", "iteration % 2",
            f"({size} - iteration + 2) // 3", "iteration + left - 3", "(left + 1) // 2", "0",
        )  # fmt: skip

    def rules(self, size: int, by: str) -> str:
        plain = f"always: best {self.number(size)}"
        sure = "at_most: 0.5" if by == "entropy" else f"at_least: {self.any('0.5', '0.0', '0.9')}"
        where = self.any(
            "rank < 2", "row > 0", "row < 2", "score >= 0", "rank < left - 1", "rank == 0",
            "row > 0 and score > 0.4", "iteration > 0", "left > 1", "rank <= iteration",
        )  # fmt: skip
        return self.pick(
            f"{sure}, {plain}", f"best: {self.number(size)}", sure, f'where: "{where}"',
            f'where: "{where}", {plain}', f"within: {self.any('0.2', '0', '0 - 1')}", plain,
        )  # fmt: skip

    def body(self, block: str, size: int, depth: int, others: Sequence[str]) -> list[str]:
        """Return the lines of a loop's body over rows `block`, whose last fill is `block` again."""
        lines: list[str] = []
        chain = [block]
        rows = [block, *others]
        if self.random.random() < 0.2:
            other = self.name("fresh")
            lines.append(f"{other}: {{op: rows, segments: [{{masks: {size}}}]}}")
            rows.append(other)
        if depth and self.random.random() < 0.3:
            start = self.pick(*rows)
            if start == block:
                start = self.name("again")
                lines.append(
                    f"{start}: {{op: rows, segments: [{{tokens: {block}.tokens}}]}}"
                    if self.random.random() < 0.3
                    else f"{start}: {{op: rows, segments: [{{masks: {size}}}]}}"
                )
            loop, more = self.loop(start, size, depth - 1, rows)
            lines += more
            rows.append(loop)
        for _ in range(int(self.pick("1", "2", "3"))):
            seen, pick, sure, take = (self.name(s) for s in ("seen", "pick", "sure", "take"))
            of = self.pick(chain[-1], *rows)
            lines.append(
                f"{seen}: {{op: forward, tokens: {of}, attention: bidirectional, cache: read}}"
            )
            forbidden = self.pick("", ", mask_token: forbidden")
            logits = seen
            if self.random.random() < 0.15:
                more, logits = self.name("more"), self.name("mixed")
                weights = self.any("[0.5, 0.5]", "[0, 1]", "[1, 0]", "[0.7, 0.3]", "[0, 0]")
                lines += [
                    f"{more}: {{op: forward, tokens: {self.any(*rows)}, attention: "
                    f"{self.any('bidirectional', 'causal, predicts: self')}, cache: read}}",
                    f"{logits}: {{op: mix, logits: [{seen}, {self.any(more, more, seen)}], "
                    f"weights: {weights}}}",
                ]
            lines.append(f"{pick}: {{op: sample, logits: {logits}{forbidden}}}")
            by = self.pick("probability", "margin", "entropy")
            tokens = f"tokens: {pick}, " if by == "probability" else ""
            lines.append(f"{sure}: {{op: score, logits: {logits}, {tokens}by: {by}}}")
            if self.random.random() < 0.1:
                lines[-1] = f"{sure}: {{op: noise, logits: {logits}}}"
            elif self.random.random() < 0.1:
                lines[-1] = f"{sure}: {{op: safety, logits: {logits}, rows: {of}, sampler: judge}}"
            among = self.pick(block, chain[-1], *rows) + self.pick(".masked", ".masked", ".filled")
            lines.append(
                f"{take}: {{op: select, among: {among}, score: {sure}, {self.rules(size, by)}}}"
            )
            start = self.pick(chain[-1], chain[-1], block, *rows)
            where = self.pick(take, take, take, f"{self.any(*rows, chain[-1])}.masked")
            new = self.pick(pick, pick, pick, f"{self.any(*rows, chain[-1])}.tokens")
            filled = self.name("part")
            lines.append(f"{filled}: {{op: fill, rows: {start}, where: {where}, tokens: {new}}}")
            chain.append(filled)
            rows.append(filled)
            if self.random.random() < 0.25:
                names = self.name("worst"), self.name("less")
                lines += masked_again(self.random, names, sure, filled, rows)
                chain.append(names[1])
                rows.append(names[1])
        last = lines.pop()
        lines.append(last.replace(f"{chain[-1]}:", f"{block}:", 1))
        return lines

    def loop(
        self, start: str, size: int, depth: int, others: Sequence[str]
    ) -> tuple[str, list[str]]:
        """Return the name of a loop over rows `start`, and its lines."""
        name = self.name("loop")
        lines = [f"{name}:", "  op: repeat", f"  on: {start}", "  until: full"]
        lines.append(f"  at_most: {self.pick(str(size), '2', '1', str(size - 1), '8')}")
        lines.append(f"  at_least: {self.any('0', '1')}")
        lines.append(f"  eos: {self.pick('stops', 'fills', 'ignored')}")
        lines.append(f"  eos_ids: {self.pick('all', 'first')}")
        if self.random.random() < 0.3:
            lines.append("  exhausted: fill")
        lines.append("  body:")
        lines += [f"    {line}" for line in self.body(start, size, depth, others)]
        return name, lines

    def file(self) -> str:
        """Return a whole file."""
        carry = {"seed": "prefill.seed"}
        if self.random.random() < 0.4:
            carry["other"] = self.any("prefill.last", "prefill.seed", '"prefill.found[0:1]"')
        emit = self.pick("seed", "", "last")
        text = HEAD + (f"  emit: {{tokens: {emit}}}\n" if emit else "")
        text += f"carry: {{{', '.join(f'{k}: {v}' for k, v in carry.items())}}}\nstep:\n"
        lines: list[str] = []
        given = [*carry]
        if self.random.random() < 0.2:
            given.append("again")
            lines.append("again: {op: lookup, length: 1, ngram: 2}")
        masks = int(self.any("2", "3", "4"))
        blocks: list[str] = []
        size = 0
        for _ in range(int(self.pick("1", "2"))):
            block = self.name("block")
            first = [f"{{tokens: {self.pick(*given)}}}" for _ in range(int(self.pick("1", "0")))]
            segments = [*first, f"{{masks: {masks}}}"]
            if self.random.random() < 0.1:
                segments.append(f"{{tokens: {self.any(*given)}}}")
            count = masks + len(segments) - 1
            if size and count != size:
                continue
            size = count
            lines.append(f"{block}: {{op: rows, segments: [{', '.join(segments)}]}}")
            blocks.append(block)
        rows = list(blocks)
        for _ in range(int(self.pick("1", "2", "3"))):
            loop, more = self.loop(self.pick(rows[-1], *rows), size, 2, rows)
            lines += more
            rows.append(loop)
            if self.random.random() < 0.2:
                seen, pick, patch = self.name("seen"), self.name("pick"), self.name("patch")
                lines += [
                    f"{seen}: {{op: forward, tokens: {loop}, attention: causal, cache: read}}",
                    f"{pick}: {{op: sample, logits: {seen}}}",
                    f"{patch}: {{op: fill, rows: {self.pick(loop, *rows)}, where: "
                    f"{self.pick(loop, *rows)}.{self.pick('masked', 'filled')}, tokens: {pick}}}",
                ]
                rows.append(patch)
        last = self.pick(rows[-1], rows[-1], *rows)
        parts = self.pick(
            f"{last}.tokens", f'"{last}.tokens[1:]"', f'"{last}.tokens[:{size - 1}]"',
            f'"{last}.tokens[:1]", "{last}.tokens[1:]"', f'"{last}.tokens[1:]", "{last}.tokens[:1]"',
            f'"{last}.tokens[0:1]", "{last}.tokens[2:]"', f'seed, "{last}.tokens[1:]"',
            f'"{self.any(*rows)}.tokens[:1]", "{last}.tokens[1:]"',
            f"{self.any(*rows)}.tokens, {last}.tokens",
        )  # fmt: skip
        lines.append(f"out: {{op: join, parts: [{parts}]}}")
        lines.append("refresh: {op: forward, tokens: out, attention: causal, cache: append}")
        lines.append("after: {op: sample, logits: refresh.last}")
        if self.random.random() < 0.3:
            lines.append("emitted: {op: join, parts: [out, after]}")
            lines.append("more: {op: forward, tokens: after, attention: causal, cache: append}")
        out = "emitted" if lines[-1].startswith("more") else "out"
        nexts = {"seed": self.pick("after", '"out[-1:]"', f'"{last}.tokens[1:2]"')}
        if "other" in carry:
            nexts["other"] = self.pick("after", '"out[-1:]"', "other", f'"{last}.tokens[1:2]"')
        following = ", ".join(f"{name}: {value}" for name, value in nexts.items())
        lines.append(f"emit: {{tokens: {out}, cache: keep all, next: {{{following}}}}}")
        return text + "".join(f"  {line}\n" for line in lines)


def random_file(seed: int) -> str:
    """Return the file of a seed."""
    random = Random(seed)
    return Maker(random, random.choice((0.95, 0.85, 0.6))).file()


def accepted(
    seeds: Iterable[int], folder: Path, check: Callable[[Path], object], most: int | None = None
) -> int:
    """How many random files `check` has held, up to `most`.

    It raises StrategyError for what is no strategy, and is asked of the next one then.
    """
    count = 0
    for seed in seeds:
        file = folder / f"random_{seed}.yaml"
        file.write_text(random_file(seed), encoding="utf-8")
        with suppress(StrategyError):
            check(file)
            count += 1
        if count == most:
            break
    return count


def search(count: int, seed: int, tries: int = 12) -> tuple[Counter[str], str | None]:
    """Try files; return what became of them, and one that emits what it must not, if there is."""
    tally: Counter[str] = Counter()
    for number in range(seed, seed + count):
        text = random_file(number)
        source = parse(text)
        graph = build(source).graph
        if graph is None:
            tally["not well typed"] += 1
            continue
        found = [diagnostic.code for diagnostic in constraints(graph, source)]
        tally[found[0] if found else "accepted"] += 1
        if found:
            if number % 8 == 0 and emits_unchosen(graph, tries * 4, number) is None:
                tally[f"{found[0]} and nothing seen"] += 1
            tally["refused and run"] += number % 8 == 0
            continue
        tokens = emits_unchosen(graph, tries, number)
        if tokens is not None:
            return tally, f"{text}\nseed {number}: {[(int(t), type(t)) for t in tokens]}"
    return tally, None


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for start in range(seed, seed + count, 1000):
        tally, found = search(min(1000, seed + count - start), start)
        print(start, dict(tally), flush=True)
        if found:
            print(found)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
