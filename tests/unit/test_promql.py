"""What tests read out of PromQL: the series that an expression selects, and the expression without its comparisons."""

import pytest
from tenantry_testing.promql import balanced, called, grouped_by, selections, selectors, uncompared


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("up", ["up"]),
        ('up{job="a b", x=~"}"}[5m] > 0', ['up{job="a b",x=~"}"}']),
        ("sum by (cluster, le) (rate(a_total[5m])) / on (cluster) group_left (x) sum(b) by (y)", ["a_total", "b"]),
        ("a:b:rate5m and a:b:rate5m unless on () c offset 5m or Inf", ["a:b:rate5m", "c"]),
        ('{__name__="x"} * bool_metric', ['{__name__="x"}', "bool_metric"]),
        ("max_over_time(a[5m:30s]) @ end() # not_this", ["a"]),
        ('label_replace(a, "x", "$1", "y", "(.*)")', ["a"]),
        ("topk(3, count without (x) (a)) > bool 2e3", ["a"]),
    ],
)
def test_selectors_are_found_once_each(expr: str, expected: list[str]) -> None:
    assert selectors(expr) == expected


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ('a{x!="1", y=~"<"} >= 2', 'a{x!="1", y=~"<"} >= bool 2'),
        ("a > bool 1", "a > bool 1"),
        ("a == on (x) b", "a == bool on (x) b"),
        ("a > 1 unless on (x) b", "a > bool 1 and on (x) b"),
        ("absent(a) or absent_over_time(b[5m])", "count(a) or present_over_time(b[5m])"),
        ("(a unless a offset 15m) > 0", "(a and a ) > bool 0"),
        ("a{b='unless >'} < 1 # > 2", "a{b='unless >'} < bool 1 "),
    ],
)
def test_without_comparisons_it_has_data_whenever_its_parts_fit(expr: str, expected: str) -> None:
    assert uncompared(expr) == expected


def test_a_selection_knows_its_window_and_the_function_that_takes_it() -> None:
    rate, ranked, gauge = selections(
        'sum by (a) (rate(x_total{a="1"}[5m])) and topk(3, increase(y_total[1h] @ end())) - z'
    )
    assert (rate.metric, rate.labels, rate.text, rate.window) == ("x_total", ("a",), 'x_total{a="1"}', "5m")
    assert (rate.call, rate.at_end) == ("rate", False)
    assert (ranked.metric, ranked.call, ranked.window, ranked.at_end) == ("y_total", "increase", "1h", True)
    assert (gauge.metric, gauge.call, gauge.window) == ("z", "", "")


def test_what_an_expression_groups_by_and_calls() -> None:
    expr = "sum by (a, b) (rate(x[5m])) / on (a) group_left (c) max(y) unless z"
    assert grouped_by(expr) == {"a", "b", "c"}
    assert called(expr) == {"sum", "rate", "max"}


@pytest.mark.parametrize(("expr", "expected"), [("a(b[5m])", True), ("a(b", False), ("a(b]", False), ("a)", False)])
def test_brackets_close(expr: str, expected: bool) -> None:
    assert balanced(expr) is expected


def test_what_is_no_promql_is_told_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"no PromQL at '\$x'"):
        selectors("a > $x")
