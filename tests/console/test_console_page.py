"""The console in a headless Chromium, over a real stack: what an operator sees, and what nobody can make it do."""

import asyncio
import json
import time

from playwright.async_api import Browser, expect
from tenantry.core.billing.periods import period_of

from console.stage import CANDIDATE, KEYS, MODEL, STABLE, Reader, Stage, reading

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>"><b>bold'


async def traffic(where: Stage, count: int = 6) -> None:
    """Requests of three tenants, and two that are refused; waits until the access log has told of all."""
    before = await where.metric("tenantry_requests_total")
    for number in range(count):
        for name in KEYS:
            assert await where.chat(KEYS[name], f"u{number}") == 200
    assert await where.chat("tk_nobody", "u") == 401
    assert await where.chat(KEYS["acme"], "u", model="no-such-model") == 404
    async with asyncio.timeout(10):
        while await where.metric("tenantry_requests_total") < before + count * len(KEYS):
            await asyncio.sleep(0.05)


def shown(value: float) -> str:
    """With two places at most, as the page writes percent."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


async def test_a_wrong_token_is_told_and_the_right_one_opens(reader: Reader) -> None:
    await reader.log_in("not-the-token")
    await expect(reader.page.get_by_role("alert")).to_have_text("Not logged in: this is not the admin token.")
    await expect(reader.page.get_by_role("heading", name="Rollouts")).to_be_hidden()
    await reader.in_()
    (cookie,) = await reader.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console")
    assert reader.stage.token not in cookie["value"]
    assert await reader.page.evaluate("document.cookie") == ""
    await reader.page.reload()
    await expect(reader.page.get_by_role("heading", name="Rollouts")).to_be_visible()
    await reader.page.get_by_role("button", name="Log out").click()
    await expect(reader.page.get_by_label("Admin token")).to_be_visible()
    assert await reader.context.cookies() == []


async def test_its_numbers_are_those_of_metrics_and_ledger_and_can_be_read(reader: Reader, where: Stage) -> None:
    await traffic(where)
    usage = f"{where.ledger}/usage?period={period_of(time.time())}&group_by=tenant,model"
    async with asyncio.timeout(10):  # the engines' spools bring it
        while sum(tally["requests"] for tally in (await where.get(usage))["tallies"]) < 18:
            await asyncio.sleep(0.1)
    await reader.in_()
    for name in KEYS:
        requests = await where.metric("tenantry_requests_total", tenant=name)
        cells = await reader.row("tenants", name)
        assert cells[6] == f"{requests:.0f}"
    for version in (STABLE, CANDIDATE):
        requests = await where.metric("tenantry_requests_total", model=MODEL, version=version)
        assert (await reader.row("versions", f"{MODEL} {version}"))[4] == f"{requests:.0f}"

    share = await where.metric("tenantry_rollout_realised_share", model=MODEL) * 100
    percent = await where.metric("tenantry_rollout_percent", model=MODEL)
    summary = reader.page.locator("#cards p").first
    await expect(summary).to_contain_text(f"Wanted {shown(percent)} %, realised {shown(share)} %")
    ratio = await where.metric("tenantry_quota_used_ratio", tenant="globex")
    assert ratio > 0
    assert f"({shown(ratio * 100)} %)" in (await reader.row("tenants", "globex"))[5]
    total = await where.metric("tenantry_refusals_total")
    await expect(reader.page.locator("#refusals-total")).to_have_text(f"{total:.0f} since the start")
    refusal = await reader.page.locator("#refusals tbody tr").first.locator("th, td").all_inner_texts()
    assert refusal[1:5] == ["acme", "model_not_found", "404", "/v1/chat/completions"]

    await expect(reader.page.locator("#usage tbody tr.sum")).to_be_visible()
    tallies = [tally for tally in (await where.get(usage))["tallies"] if tally["owner"] == "tenant"]
    assert {tally["tenant"] for tally in tallies} == set(KEYS)
    async with asyncio.timeout(5):
        for tally in tallies:
            gpu_s = (tally["prefill_gpu_ns"] + tally["decode_gpu_ns"]) / 1e9
            while (cells := await reader.row("usage", tally["tenant"])) and cells[6] != f"{gpu_s:,.3f}":
                await asyncio.sleep(0.2)  # the page's figures may be two seconds old
            assert cells[3] == str(tally["requests"])
            assert cells[4].startswith(f"{tally['input_tokens']:,}")
            assert cells[4].endswith(f"/ {tally['output_tokens']:,}")
            assert cells[5] == f"{tally['compute_units_micro'] / 1e6:,.3f}"
            assert cells[7] == f"{tally['peak_kv_bytes'] / 2**20:,.1f}"
    assert await reader.page.evaluate(CONTRASTS) == []


async def test_a_revert_appears_within_two_seconds_and_what_was_written_stays_text(
    reader: Reader, where: Stage, figure: dict[str, object]
) -> None:
    await reader.in_()
    badge = reader.page.locator("#cards .badge")
    await expect(badge).to_have_text("splitting")
    begin_s = time.monotonic()
    await where.word("revert", who=HOSTILE, why=HOSTILE)
    await expect(badge).to_have_text("reverted", timeout=2_000)
    figure["revert_shown_s"] = round(time.monotonic() - begin_s, 2)
    assert time.monotonic() - begin_s < 2.0
    await expect(reader.page.locator("#told")).to_have_text(f"rollout of {MODEL}: reverted")
    await expect(reader.page.locator("#strip")).to_contain_text(f"reverted: {MODEL}")
    entry = reader.page.locator("#cards table").first.locator("tbody tr").first
    await expect(entry).to_contain_text(HOSTILE)
    assert await reader.page.locator("main img, main script, main b").count() == 0
    assert await reader.page.evaluate("window.hacked") is None
    await where.word("resume", why="the test is over")
    await expect(badge).to_have_text("splitting", timeout=2_000)


async def test_refused_rules_say_why_as_text(reader: Reader, where: Stage) -> None:
    await reader.in_()
    broken = json.loads(json.dumps(where.document))
    broken["tenants"]["acme"]["pins"] = {MODEL: HOSTILE}
    where.rules.write_text(json.dumps(broken))
    try:
        await expect(reader.page.locator("#strip")).to_contain_text("rules refused")
        await expect(reader.page.locator("#problems")).to_contain_text("tenants.acme.pins")
        assert await reader.page.locator("main img, main script, main b").count() == 0
    finally:
        where.rules.write_text(json.dumps(where.document))
    await expect(reader.page.locator("#strip")).to_contain_text("rules live")


async def test_by_keyboard_alone(reader: Reader) -> None:
    page = reader.page
    await reader.log_in()
    await page.get_by_role("heading", name="Rollouts").wait_for()
    await page.reload()
    await page.get_by_role("heading", name="Rollouts").wait_for()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await expect(page.get_by_role("link", name="Skip to content")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    walked = []
    for _ in range(20):
        await page.keyboard.press("Tab")
        focused = await page.evaluate(
            "() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " return [e.id || e.textContent, s.outlineStyle, parseFloat(s.outlineWidth)] }"
        )
        assert focused[1:] == ["solid", 3], focused
        walked.append(focused[0])
        if focused[0] == "quota spent":
            break
    assert walked[:2] == ["tenants-word", "tenant"]
    await page.keyboard.press("Enter")
    await expect(page.locator("#tenants th[aria-sort=descending]")).to_have_text("quota spent")
    # The page changes each second, and the focus stays.
    await page.wait_for_timeout(1_300)
    await expect(page.get_by_role("button", name="quota spent")).to_be_focused()
    await page.get_by_label("Search").first.focus()
    await page.keyboard.type("glob")
    await expect(page.locator("#tenants-found")).to_have_text("1 of 3")
    assert await page.locator("table caption").count() == await page.locator("table").count()


async def test_a_narrow_phone_scrolls_down_only_and_dark_mode_can_be_read(browser: Browser, where: Stage) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "reduced_motion": "reduce"}
    async with reading(browser, where, **phone) as reader:
        await reader.in_()
        await expect(reader.page.locator("#tenants tbody tr")).to_have_count(3)
        widths = await reader.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1] == 360
        poor = await reader.page.evaluate(CONTRASTS)
        assert poor == []
        assert await reader.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
        assert reader.errors == []


CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  let looked = 0;
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility()) continue;
    looked += 1;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5 && !node.disabled) poor.push([node.textContent.slice(0, 40), ratio]);
  }
  return looked > 40 ? poor : [["too little was looked at", looked]];
}"""
"""Text whose contrast with what is behind it is below 4.5 (WCAG 2.2, 1.4.3)."""
