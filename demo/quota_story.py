"""A tenant spends its quota: a large request passes, the next does not, and a small one still has room.

All of it happens within a second or two, so the minute that passes meanwhile gives nothing of note back.
"""

from collections.abc import Callable

import aiohttp
import msgspec

from demo.crowd import PATH, TIMEOUT, ask
from demo.run import CrowdCall, Refused
from demo.scenario import QuotaPlan

REFUSED = 429


async def spend(plan: QuotaPlan, base_url: str, key: str, done: Callable[[CrowdCall], None]) -> Refused:
    """Send the three requests; those that must pass go to `done`, the one that must not is returned."""
    async with aiohttp.ClientSession(base_url, timeout=TIMEOUT) as http:

        async def send(prompt: str) -> CrowdCall:
            return await ask(
                http, key, tenant=plan.tenant, model=plan.model, prompt=prompt, answer_tokens=plan.answer_tokens
            )

        done(await send(plan.prompt * plan.large))
        over = await send(plan.prompt * plan.large)
        done(await send(plan.prompt))
    return Refused(
        what=f"{plan.tenant}'s second large request, over its quota of {plan.compute_units_per_minute} compute units a "
        "minute,",
        path=PATH,
        expected=REFUSED,
        status=over.status,
        message=_message(over.error) or "was answered",
    )


def _message(error: str) -> str:
    """Return what a person reads of an OpenAI error, `STATUS: JSON`."""
    try:
        return str(msgspec.json.decode(error.partition(": ")[2])["error"]["message"])
    except (msgspec.DecodeError, TypeError, KeyError):
        return error
