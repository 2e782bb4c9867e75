"""Which version serves whom: pin > revert, pause > beta flag > promotion > split > stable."""

import pytest
from tenantry.core.rollout.standing import FLEET, State
from tenantry.core.routing import Decision, Live, RolloutView, cluster_name, cluster_names
from tenantry.core.rules import Rules
from tenantry.core.tenant import Profile
from tenantry_testing import documents
from tenantry_testing.documents import live, rules

SPLIT = rules({"models.chat-8b.rollout.percent": 5})
"""Stable 1.4.0, candidate 1.5.0 for 5 % of the units."""

MIRRORED = rules({"models.chat-8b.rollout.percent": 5, "models.chat-8b.rollout.mirrorPercent": 20})
STABLE_ONLY = rules({"models/chat-8b/rollout": ...})


def tenant(name: str = "acme", **more: object) -> Profile:
    return Profile(name=name, tier="gold", priority=0, **more)  # type: ignore[arg-type]


def chosen(profile: Profile, of: Rules = SPLIT, **more: object) -> Decision:
    return documents.decision(profile, "chat-8b", of, **more)  # type: ignore[arg-type]


def known(
    states: dict[str, State] | None = None,
    *,
    of: Rules = SPLIT,
    percent: float | None = None,
    beta: dict[str, bool] | None = None,
) -> Live:
    """What routing knows; `states` are by scope."""
    view = live(of).rollouts["chat-8b"]
    told = RolloutView(id=view.id, candidate=view.candidate, image=view.image, states=states or {}, percent=percent)
    return Live(rollouts={"chat-8b": told}, beta=beta or {})


@pytest.mark.parametrize(
    ("profile", "split", "version", "reason", "why"),
    [
        (tenant(), 50.0, "1.4.0", "stable", "its unit is in bucket 50.00 of 100, not below the 5 % that go to 1.5.0"),
        (tenant(), 4.99, "1.5.0", "split", "its unit is in bucket 4.99 of 100, below the 5 % that go to 1.5.0"),
        (tenant(beta=True), 50.0, "1.5.0", "beta", "tenant acme has the beta flag and 1.5.0 is the candidate"),
        (tenant(pins={"chat-8b": "1.5.0"}), 50.0, "1.5.0", "pin", "tenant acme is pinned to 1.5.0"),
        (tenant(pins={"chat-8b": "1.4.0"}), 0.0, "1.4.0", "pin", "tenant acme is pinned to 1.4.0"),
    ],
)  # fmt: skip
def test_who_gets_which_version_and_why(profile: Profile, split: float, version: str, reason: str, why: str) -> None:
    decision = chosen(profile, split=split)
    assert (decision.model, decision.version, decision.reason, decision.why) == ("chat-8b", version, reason, why)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("scope", ["fleet", "tier:gold", "tenant:acme"])
def test_no_flag_no_bucket_and_no_state_moves_a_pinned_tenant(scope: str, state: State) -> None:
    """Invariant 8."""
    pinned = tenant(beta=True, pins={"chat-8b": "1.4.0"})
    decision = chosen(pinned, MIRRORED, known=known({scope: state}, of=MIRRORED), split=0.0, mirror=0.0)
    assert (decision.version, decision.reason) == ("1.4.0", "pin")
    assert (decision.cluster, decision.trial, decision.mirror_cluster, decision.rescued) == (
        "chat-8b@1.4.0", None, "", False,
    )  # fmt: skip


@pytest.mark.parametrize(("state", "word"), [(State.REVERTED, "reverted"), (State.PAUSED, "paused")])
@pytest.mark.parametrize(("scope", "whom"), [("fleet", "all"), ("tier:gold", "tier gold"), ("tenant:acme", "acme")])
@pytest.mark.parametrize("beta", [False, True])
def test_a_reverted_or_paused_candidate_gets_nothing(
    state: State, word: str, scope: str, whom: str, beta: bool
) -> None:
    """Invariant 8: no split, no beta, no mirror traffic; also when somebody else promoted it."""
    told = known({"fleet": State.PROMOTED} | {scope: state}, of=MIRRORED)
    decision = chosen(tenant(beta=beta), MIRRORED, known=told, split=0.0, mirror=0.0)
    assert (decision.version, decision.reason, decision.trial, decision.mirror_cluster) == ("1.4.0", "stable", None, "")
    assert decision.why == f"the rollout of 1.5.0 is {word} for {whom}; 1.4.0 is the stable version of chat-8b"


def test_a_verdict_about_a_tenant_is_no_verdict_about_another() -> None:
    told = known({"tenant:acme": State.REVERTED})
    assert chosen(tenant(), known=told, split=0.0).version == "1.4.0"
    assert chosen(tenant("globex"), known=told, split=0.0).version == "1.5.0"


@pytest.mark.parametrize(("scope", "whom"), [("fleet", "all"), ("tier:gold", "tier gold"), ("tenant:acme", "acme")])
def test_a_promotion_gives_the_candidate_to_whom_it_names(scope: str, whom: str) -> None:
    decision = chosen(tenant(), known=known({scope: State.PROMOTED}), split=99.0)
    assert (decision.version, decision.reason, decision.why) == (
        "1.5.0", "promoted", f"the candidate 1.5.0 is promoted for {whom}",
    )  # fmt: skip
    assert chosen(tenant(pins={"chat-8b": "1.4.0"}), known=known({scope: State.PROMOTED})).version == "1.4.0"


def test_without_knowledge_of_the_rollouts_state_nobody_gets_the_candidate() -> None:
    """No view: the store was not read. A view of another image: the rules changed under it."""
    for told in (Live(), Live(rollouts={"chat-8b": RolloutView(id="0" * 16, candidate="1.5.0", image="other")})):
        for profile in (tenant(), tenant(beta=True)):
            decision = chosen(profile, known=told, split=0.0)
            assert (decision.version, decision.trial) == ("1.4.0", None)
            assert "cannot be read, so nobody gets it" in decision.why
        assert chosen(tenant(pins={"chat-8b": "1.5.0"}), known=told).version == "1.5.0"


def test_the_beta_flag_means_nothing_without_a_rollout() -> None:
    decision = chosen(tenant(beta=True), STABLE_ONLY)
    assert (decision.version, decision.reason) == ("1.4.0", "stable")


@pytest.mark.parametrize(
    ("in_rules", "may", "own", "has"),
    [
        (True, True, None, True),
        (True, True, False, False),
        (False, True, True, True),
        (False, False, True, False),  # a word from when the rules let it have one
        (True, False, False, True),
    ],
)
def test_a_tenants_own_word_counts_where_the_rules_let_it(
    in_rules: bool, may: bool, own: bool | None, has: bool
) -> None:
    told = known(beta={} if own is None else {"acme": own, "globex": not own})
    decision = chosen(tenant(beta=in_rules, beta_self_service=may), known=told)
    assert (decision.reason == "beta") is has


@pytest.mark.parametrize(
    ("name", "percent", "steps", "bucket_in", "bucket_out"),
    [
        ("acme", 5, None, 4.9, 5.0),
        ("initech", 5, None, 0.9, 1.0),  # its tier's
        ("globex", 5, None, 29.9, 30.0),  # its own, though its tier has one too
        ("acme", 5, 25.0, 24.9, 25.0),  # automatic steps stand for the rules' percent
        ("globex", 5, 50.0, 29.9, 30.0),  # and for nobody's own
    ],
)
def test_whose_percent_counts(
    name: str, percent: float, steps: float | None, bucket_in: float, bucket_out: float
) -> None:
    of = rules(
        {
            "models.chat-8b.rollout.percent": percent,
            "models.chat-8b.rollout.percentByTier": {"bronze": 1},
            "models.chat-8b.rollout.percentByTenant": {"globex": 30},
        }
    )
    profile = Profile(name=name, tier="gold" if name == "acme" else "bronze", priority=0)
    for bucket, version in ((bucket_in, "1.5.0"), (bucket_out, "1.4.0")):
        assert chosen(profile, of, known=known(of=of, percent=steps), split=bucket).version == version


def test_what_a_request_is_to_the_rollout() -> None:
    """The share is the probability with which it would have gone to the candidate; 1 where there was no chance."""
    in_split, rest, beta, copied = (
        chosen(tenant(), split=1.0),
        chosen(tenant(), split=50.0),
        chosen(tenant(beta=True)),
        chosen(tenant(), MIRRORED, split=50.0, mirror=19.9),
    )
    told = [decision.trial for decision in (in_split, rest, beta, copied)]
    assert [trial and (trial.arm, trial.share, trial.mirror) for trial in told] == [
        ("candidate", 0.05, False), ("stable", 0.05, False), ("candidate", 1.0, False), ("stable", 0.05, True),
    ]  # fmt: skip
    assert {trial.unit for trial in told if trial} == {"00c0ffee00c0ffee"}
    assert chosen(tenant(), rules(), split=0.0).trial is None  # no percent, no mirror: nothing to the rollout


def test_a_candidates_request_is_rescued_and_a_stable_one_mirrored_and_nothing_is_both() -> None:
    for profile, split in ((tenant(), 0.0), (tenant(beta=True), 99.0)):
        decision = chosen(profile, MIRRORED, split=split, mirror=0.0)
        assert (decision.cluster, decision.rescued, decision.mirror_cluster) == (
            "chat-8b@1.5.0@1.4.0", True, "",
        )  # fmt: skip
        assert decision.trial is not None
        assert not decision.trial.mirror  # or a pair would be waited for, and its copy taken for failed
    mirrored = chosen(tenant(), MIRRORED, split=5.0, mirror=0.0)
    assert (mirrored.cluster, mirrored.rescued, mirrored.mirror_cluster) == (
        "chat-8b@1.4.0", False, "chat-8b@1.5.0",
    )  # fmt: skip
    stable = chosen(tenant(), MIRRORED, split=5.0, mirror=20.0)
    assert (stable.cluster, stable.rescued, stable.mirror_cluster) == ("chat-8b@1.4.0", False, "")


def test_a_stream_has_less_time_for_its_first_byte_than_a_whole_answer_on_either_version() -> None:
    for split in (0.0, 50.0):
        trials = [chosen(tenant(), split=split, streams=streams).trial for streams in (True, False)]
        assert [trial and trial.limit_s for trial in trials] == [10.0, 120.0]


@pytest.mark.parametrize(
    ("profile", "served", "adapter"),
    [
        (tenant(), "chat-served", None),
        (tenant(beta=True, adapters={"chat-8b": "acme-support"}), "acme-support", "acme-support"),
        (tenant(adapters={"embed": "acme-search"}), "chat-served", None),
    ],
)
def test_what_the_engine_is_asked_for(profile: Profile, served: str, adapter: str | None) -> None:
    decision = chosen(profile)
    assert (decision.served_name, decision.adapter) == (served, adapter)


@pytest.mark.parametrize(
    ("stable", "candidate", "of_stable", "of_candidate", "of_mirrored"),
    [
        ("fcfs", "priority", False, False, False),
        ("priority", "fcfs", True, False, False),
        ("priority", "priority", True, True, True),
        ("fcfs", "fcfs", False, False, False),
    ],
)
def test_a_priority_is_sent_only_where_every_pool_that_may_answer_schedules_by_it(
    stable: str, candidate: str, of_stable: bool, of_candidate: bool, of_mirrored: bool
) -> None:
    """One body goes to both, and vLLM without priority scheduling refuses any but 0."""
    of = rules(
        {
            "models/chat-8b/rollout/percent": 5,
            "models/chat-8b/rollout/mirrorPercent": 20,
            "models/chat-8b/versions/1.4.0/scheduling": stable,
            "models/chat-8b/versions/1.5.0/scheduling": candidate,
        }
    )
    told = [chosen(tenant(), of), chosen(tenant(), of, split=0.0), chosen(tenant(), of, mirror=0.0)]
    assert [each.priority_scheduling for each in told] == [of_stable, of_candidate, of_mirrored]


def test_every_cluster_that_a_decision_can_name_is_known_beforehand() -> None:
    assert cluster_name("chat-8b", "1.4.0") == "chat-8b@1.4.0"
    assert cluster_names(MIRRORED) == {"chat-8b@1.4.0", "chat-8b@1.5.0", "chat-8b@1.5.0@1.4.0", "embed@1"}
    assert FLEET == "fleet"
