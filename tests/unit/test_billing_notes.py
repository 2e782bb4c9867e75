"""What `tenantry check` says of prices, weights and quotas that are valid and perhaps not meant."""

from tenantry.core.billing.notes import billing_notes
from tenantry_testing.billing import PRICES, rules
from tenantry_testing.documents import document
from tenantry_testing.documents import rules as unpriced

WEIGHED = {
    name: model | {"profile": {"gigaflopsPerToken": 15.0}}
    for name, model in document()["models"].items()
}  # fmt: skip


def tiers(**quota: int) -> dict[str, object]:
    return {"gold": PRICES["gold"] | {"quota": quota}, "bronze": PRICES["bronze"]}


def test_a_document_with_prices_weights_and_costs_needs_no_note() -> None:
    assert billing_notes(rules(models=WEIGHED)) == []


def test_prices_of_nothing_everywhere_are_one_note_and_no_error() -> None:
    assert billing_notes(unpriced()) == ["tiers: none has a price, so every invoice comes to 0"]


def test_a_tier_without_a_price_among_others_is_named() -> None:
    free = {"gold": PRICES["gold"], "bronze": {"priority": 20}}
    assert billing_notes(rules(models=WEIGHED, tiers=free)) == [
        "tiers.bronze.price: there is none, so usage in this tier costs nothing"
    ]


def test_a_model_without_a_weight_is_named_with_the_command_that_finds_it() -> None:
    models = WEIGHED | {"embed": document()["models"]["embed"]}
    (note,) = billing_notes(rules(models=models))
    assert note.startswith("models.embed.profile: there is none, so 1,000 input tokens are a compute unit")
    assert "`tenantry profile CONFIG.json`" in note


def test_a_price_of_time_where_none_is_measured_is_named() -> None:
    models = WEIGHED | {"embed": WEIGHED["embed"] | {"usage": "estimate"}}
    assert billing_notes(rules(models=models)) == [
        "models.embed.usage: estimate, which measures no GPU time: the gpuHour price of gold counts for nothing there"
    ]


def test_a_cost_that_nobody_set_is_named() -> None:
    (note,) = billing_notes(rules(models=WEIGHED, billing={}))
    assert note.startswith("billing.operatorGpuHour: 0")


def test_quotas_that_bind_nobody_are_named() -> None:
    def noted(**quota: int) -> list[str]:
        return billing_notes(rules(models=WEIGHED, tiers=tiers(**quota)))

    assert noted(computeUnitsPerMinute=100, computeUnitsPerPeriod=1_000_000) == []
    assert noted() == [
        "tiers.gold.quota: neither computeUnitsPerMinute nor computeUnitsPerPeriod is set, so it limits nothing"
    ]
    assert noted(computeUnitsPerMinute=11, computeUnitsPerPeriod=10) == [
        "tiers.gold.quota: computeUnitsPerMinute (11) is more than computeUnitsPerPeriod (10)"
    ]
    assert noted(computeUnitsPerMinute=1, computeUnitsPerPeriod=44_641) == [
        "tiers.gold.quota: a month at computeUnitsPerMinute (1) never reaches computeUnitsPerPeriod (44641)"
    ]
    assert noted(computeUnitsPerMinute=1, computeUnitsPerPeriod=44_640) == []
