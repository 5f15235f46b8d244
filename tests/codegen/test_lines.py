"""Lines of generated code know the nodes that they were printed for, and are the code."""

from __future__ import annotations

import pytest

from nldc import api
from nldc.codegen.pipeline import compiled, run
from nldc.codegen.print_decode import Header, decode_lines, print_decode
from nldc.codegen.print_patterns import pattern_lines, print_patterns
from nldc.codegen.program import Program
from nldc.codegen.program_text import program_lines, show_program
from nldc.codegen.writer import Line, Writer, text_of

HEADER = Header("file.yaml", "0" * 64, "1.0")


def program(name: str) -> Program:
    return compiled(run(api.check(name, others=False).graph))


@pytest.mark.parametrize("name", ["linear_ss_adaptive", "quadratic_ss_tapered", "lookahead"])
def test_lines_put_together_are_the_text(name: str) -> None:
    made = program(name)
    for lines, text in (
        (decode_lines(made, HEADER), print_decode(made, HEADER)),
        (pattern_lines(made), print_patterns(made)),
        (program_lines(made), show_program(made)),
    ):
        assert text_of(lines) == text
        assert not any("\n" in line.text for line in lines)


def test_a_line_in_a_loop_is_of_its_node_and_not_of_the_loop() -> None:
    lines = decode_lines(program("block_diffusion"), HEADER)
    of = {line.text.strip(): line.nodes for line in lines}
    (seen,) = (nodes for text, nodes in of.items() if text.startswith("filled_seen = batch."))
    assert seen == ("step.filled.seen",)
    (loop,) = (nodes for text, nodes in of.items() if text.startswith("for _ in batch.rounds"))
    assert loop == ("step.filled",)


def test_what_a_step_hands_out_and_begins_with_is_told_apart() -> None:
    of = {line.text.strip(): line.nodes for line in decode_lines(program("ar"), HEADER)}
    assert of['seed = carry["seed"]'] == ("carry.seed",)
    assert of['return Emit(tokens=choice, carry={"seed": choice})'] == ("step.emit",)


def test_a_writer_goes_back_to_the_nodes_of_before() -> None:
    out = Writer()
    with out.of(["a"]):
        with out.of(["b", "c"]):
            out.line("one\ntwo")
        out.line("three")
    out.line("four")
    assert out.lines == [
        Line("one", ("b", "c")), Line("two", ("b", "c")), Line("three", ("a",)), Line("four"),
    ]  # fmt: skip
