"""Take the pictures of docs/img from running things: `python -m tools.screenshots`.

Runs the demo's stack (Envoy, sidecar, ledger, stand-in engines) while the demo plays, takes the console on a desktop in
light and on a phone in dark, and the report that the play comes to.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from playwright.async_api import Browser, Page, async_playwright
from rich.console import Console
from tenantry.core.keyring import ADMIN_TOKEN

from demo import scenario as scenarios
from demo.live import showing
from demo.measure import build
from demo.play import Play
from demo.report_html import page as report_page
from demo.retrieval_stack import Environments, NoEnvironmentError, environments
from demo.stack import Stack, running
from tools.services import PROGRAMS

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "img"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
MAX_BYTES = 200_000
DESKTOP = {"width": 1200, "height": 1400}
PHONE = {"width": 390, "height": 844}


class TooLargeError(Exception):
    """A picture that the repository should not carry."""


async def main() -> int:
    """Write the pictures; return 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots", description=__doc__)
    parser.add_argument("--seconds", type=float, default=45.0, help="how long the demo plays (%(default)g)")
    options = parser.parse_args()
    program = shutil.which(PROGRAMS["chromium"])
    if program is None:
        print("error: no chromium here: `python3 tools/services.py chromium`", file=sys.stderr)
        return 1
    scenario, quiet = scenarios.stand_in(), Console(file=sys.stderr)
    retrieval: Environments | str
    try:
        retrieval = await environments()
    except NoEnvironmentError as error:
        retrieval = str(error)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        async with async_playwright() as playwright, running(scenario, out, quiet.print, retrieval) as stack:
            browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
            async with aiohttp.ClientSession() as http:
                play = Play(scenario, stack, http)
                with showing(quiet) as show:
                    await play.run(time.time() + options.seconds, show)
                await console(browser, stack)
                report = build(play.record(options.seconds))
            (out / "report.html").write_text(report_page(report), encoding="utf-8")
            await demo_report(browser, out / "report.html")
            await browser.close()
    return 0


async def console(browser: Browser, stack: Stack) -> None:
    """Take the console."""
    token = (stack.secrets / ADMIN_TOKEN).read_text().strip()
    for name, viewport, scheme in (("console", DESKTOP, "light"), ("console-phone-dark", PHONE, "dark")):
        context = await browser.new_context(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
        page = await context.new_page()
        await page.goto(f"http://{stack.admin}/console")
        await page.get_by_label("Admin token").fill(token)
        await page.keyboard.press("Enter")
        await page.locator("#usage tbody tr.sum").wait_for()
        await taken(page, name)
        await context.close()


async def demo_report(browser: Browser, report: Path) -> None:
    """Take the head of the demo's report."""
    context = await browser.new_context(viewport={"width": 960, "height": 1000}, color_scheme="light")
    page = await context.new_page()
    await page.goto(report.resolve().as_uri())
    await taken(page, "demo-report")
    await context.close()


async def taken(page: Page, name: str) -> None:
    """Write a picture of what is seen; raise TooLargeError beyond MAX_BYTES."""
    path = IMAGES / f"{name}.png"
    picture = await page.screenshot(path=path)
    if len(picture) > MAX_BYTES:
        raise TooLargeError(f"{path} has {len(picture)} bytes: at most {MAX_BYTES}")
    print(f"{path.relative_to(ROOT)}: {len(picture)} bytes")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
