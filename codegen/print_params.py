"""Print what requests bring: the params as constants, and what follows from them."""

from __future__ import annotations

from nldc.codegen import program as p
from nldc.codegen.writer import Writer, quoted, show_tuple
from nldc.expr import show, to_python


def print_params(out: Writer, program: p.Program, imported: set[str]) -> None:
    """Print the constants, and add what they need to `imported`."""
    for each in program.brought:
        imported.add("Param")
        numbers = [str(number) for number in (each.default, each.low, each.high)]
        arguments = [quoted(each.param), *numbers, *([quoted(each.help)] if each.help else [])]
        out.assign(each.name, "Param", arguments)
    for worth in program.worths:
        imported.add("Worth")
        text = to_python(worth.expr, {name: name for name in worth.bound})
        arguments = [show_tuple(list(worth.params)), f"lambda {', '.join(worth.bound)}: {text}"]
        out.comment(show(worth.expr))
        out.assign(worth.name, "Worth", arguments)
    if program.brought:
        out.line()


def print_brought(out: Writer, program: p.Program) -> None:
    """Print the class variables that say what requests bring, and what methods ask of it."""
    if program.brought:
        out.line(f"PARAMS = {show_tuple([each.name for each in program.brought])}")
    asked = dict.fromkeys(show_key(each) for method in program.methods for each in method.asked)
    if asked:
        out.assign_text("ASKED", show_tuple(list(asked)))


def show_key(asked: p.Asked) -> str:
    """Print what is asked with what it is for."""
    return f"({asked.constant}, {quoted(asked.role)})"


def show_asked(asked: p.Asked) -> str:
    """Print the arguments of `Batch.param`."""
    return asked.constant if asked.role == "score" else f"{asked.constant}, {quoted(asked.role)}"
