"""What every client script shares: its job from stdin, what it saw as JSON on stdout, a deterministic embedding.

These scripts run in an SDK's environment (tools/env.py), not in the one of the tests: only the standard library and
the SDK are there. A step that fails is an entry with `error`, so that one refusal does not hide the rest.
"""

import hashlib
import json
import sys
import time

DIMENSION = 8
"""Of every embedding."""


class Steps:
    """Runs named steps, keeps what each saw, and prints all of it at the end."""

    def __init__(self, sdk):
        self.job = json.load(sys.stdin)
        self.marker = self.job["tenant_marker"]
        self.skip = tuple(self.job.get("skip", ()))
        self.seen = {"sdk": sdk, "steps": []}

    def run(self, name, action):
        """Run a step unless the job skips its name or its group (`group.` of `group.name`)."""
        if name in self.skip or name.partition(".")[0] in self.skip:
            return None
        begin = time.monotonic()
        entry = {"op": name}
        result = None
        try:
            result = action()
            entry["saw"] = plain(result)
        except Exception as error:
            entry["error"] = f"{type(error).__name__}: {error}"[:600]
            entry["code"] = code_of(error)
        entry["ms"] = round((time.monotonic() - begin) * 1000, 1)
        self.seen["steps"].append(entry)
        return result

    def finish(self):
        """Print what was seen, as the only JSON on stdout."""
        json.dump(self.seen, sys.stdout)
        sys.stdout.write("\n")


def code_of(error):
    """Return the error's number or gRPC status name, where it has one."""
    code = getattr(error, "code", None)
    code = code() if callable(code) else code
    return getattr(code, "name", None) or (int(code) if isinstance(code, int) else None)


def plain(value):
    """Return the value with nothing but JSON's types in it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(one) for one in value]
    return str(value)


def vector(text):
    """Return a unit vector that depends on the text alone."""
    digest = hashlib.sha256(text.encode()).digest()
    values = [byte / 255 - 0.5 for byte in digest[:DIMENSION]]
    length = sum(value * value for value in values) ** 0.5
    return [value / length for value in values]
