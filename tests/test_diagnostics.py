"""Diagnostics are data: sorted, deduplicated, and suggesting the nearest name."""

from nldc.diagnostics import Diagnostic, InternalError, Label, Span, StrategyError, nearest


def at(line: int, column: int, code: str = "NLD010", message: str = "wrong") -> Diagnostic:
    return Diagnostic(
        code, "error", message, (Label(Span("a.yaml", line, column, line, column + 1)),)
    )


def test_mistakes_are_sorted_by_place_and_reported_once() -> None:
    error = StrategyError([at(3, 1), at(1, 9), at(1, 2), at(3, 1)])
    places = [
        (d.labels[0].span.start_line, d.labels[0].span.start_column) for d in error.diagnostics
    ]
    assert places == [(1, 2), (1, 9), (3, 1)]


def test_str_of_a_strategy_error_names_place_code_and_message() -> None:
    assert str(StrategyError([at(3, 1)])) == "a.yaml:3:1: error[NLD010]: wrong"


def test_the_span_of_a_diagnostic_is_its_first_primary_label() -> None:
    cause, place = Span("a.yaml", 1, 1, 1, 2), Span("a.yaml", 9, 1, 9, 2)
    found = Diagnostic("NLD010", "error", "m", (Label(cause, "", False), Label(place, "")))
    assert found.span == place
    assert Diagnostic("NLD010", "error", "m").span is None


def test_an_internal_error_asks_for_a_report_with_version_and_platform() -> None:
    text = str(InternalError("graph lost a node"))
    assert "graph lost a node" in text
    assert "Please report" in text
    assert "Python 3." in text


def test_nearest_suggests_a_misspelt_name_and_nothing_far_away() -> None:
    assert nearest("drafed", ["drafted", "checked"]) == "drafted"
    assert nearest("Block", ["block", "mask"]) == "block"
    assert nearest("zebra", ["drafted", "checked"]) is None
    assert nearest("x", []) is None
