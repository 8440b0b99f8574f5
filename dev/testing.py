"""What the tests in Python share: how one fails or is left out, and how all of them are run and counted."""

import os
import sys
import time


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


def require(good, message):
    if not good:
        raise Failed(message)


def processor_seconds():
    """What this process, and those that it has waited for, took of processors: beside other work only this can be compared."""
    return sum(os.times()[:4])


def run_tests(tests):
    """Runs tests, pairs of a name and a function, which returns a line about what it measured, or None if there is nothing to test.
    A line each, then the one that dev/run_tests.sh adds up. Exits: 1 if one failed or if there were none."""
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    for name, test in tests:
        begun, used = time.monotonic(), processor_seconds()
        try:
            said = test()
            verdict, said = ("ok", said) if said is not None else ("skip", "nothing to compare with")
        except Skipped as reason:
            verdict, said = "skip", reason
        except Failed as reason:
            verdict, said = "FAIL", reason
        except Exception as reason:         # a file that is damaged makes readers in a test stumble
            verdict, said = "FAIL", repr(reason)
            sys.excepthook(*sys.exc_info())
        counts[verdict] += 1
        print(f"{verdict:4} {name}: {said} ({time.monotonic() - begun:.1f} s, {processor_seconds() - used:.1f} of processors)", flush=True)
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    sys.exit(counts["FAIL"] > 0 or not tests)
