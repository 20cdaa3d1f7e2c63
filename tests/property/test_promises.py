"""No promise is ever broken: whatever happens to files, catalogs, locks and runs."""

import os

import pytest

from tests.support.promising import Promises, tell_stories

# 4,000 steps; whoever has changed something that they guard may ask for more.
EXAMPLES = int(os.environ.get("SYSBACKUP_PROMISES", "80"))


@pytest.mark.lengthy
def test_every_manifest_restores_until_its_promise_has_passed() -> None:
    """Over thousands of random steps, see `tests.support.promising`."""
    tell_stories(Promises, EXAMPLES)
