"""A vLLM that does not fit is refused at the start, in words."""

import pytest
from tenantry_vllm import plugin
from tenantry_vllm._compat import INTERFACE, SUPPORTED, Need, UnsupportedVllmError, check, missing

FITS = (Need("json", "loads", ("s",)), Need("json:JSONDecoder", "decode", ("self", "s")))


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu", "0.32.5", "0.32.1rc1"])
def test_these_fit(version: str) -> None:
    check(version=lambda: version, interface=FITS)


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.3.2", "1.0.0", "0.320.0"])
def test_another_release_is_refused_with_what_can_be_done(version: str) -> None:
    with pytest.raises(UnsupportedVllmError, match=r"fits vLLM 0\.32\.x; this is " + version) as refused:
        check(version=lambda: version, interface=FITS)
    assert "unset TENANTRY_MODEL" in str(refused.value)


def test_without_vllm_it_says_so() -> None:
    with pytest.raises(UnsupportedVllmError, match="none is installed"):
        check()  # the development environment has none


def test_the_plugin_changes_nothing_unless_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENANTRY_MODEL", raising=False)
    plugin.register()  # nothing of vLLM is looked for
    assert not plugin.registered()
    monkeypatch.setenv("TENANTRY_MODEL", "chat-8b")
    with pytest.raises(UnsupportedVllmError):
        plugin.register()
    assert not plugin.registered()


def test_a_build_that_was_changed_is_refused_by_name() -> None:
    changed = (
        *FITS,
        Need("json", "gone"),
        Need("json:Gone", "decode"),
        Need("json:JSONDecoder", "decode", ("self", "text")),
    )
    assert missing(changed) == ["json.gone", "Gone.decode", "JSONDecoder.decode(self, text)"]
    with pytest.raises(UnsupportedVllmError, match=r"lacks json\.gone, Gone\.decode"):
        check(version=lambda: f"{SUPPORTED[0]}.0", interface=changed)


def test_no_need_is_named_twice() -> None:
    assert len({(need.owner, need.name) for need in INTERFACE}) == len(INTERFACE)
