"""The short form of `make bench-reload`: a mounted folder is swapped under load, through real Envoy and sidecar."""

from bench.reload import Plan, measure


async def test_rules_swapped_as_the_kubelet_does_it_fail_no_request_and_are_live_within_a_second() -> None:
    few, large = Plan(upgrades=6, pause_s=0.2), Plan(upgrades=2, pause_s=0.2)
    figures = await measure(few, large, tenants=1_000)
    assert figures["failures"] == figures["large"]["failures"] == 0
    assert figures["upgrades"] == 6
    assert figures["requests"] > 5 * 200
    assert 0 < figures["live_after_ms"]["p50"] <= figures["live_after_ms"]["max"] < 1_000
    assert 0 < figures["large"]["reload_seconds"]["max"] < 10
    assert all(each["p99_ms"][kind] > 0 for each in (figures, figures["large"]) for kind in ("quiet", "upgrading"))
