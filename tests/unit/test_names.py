"""Names of runs: which are public, which are not, and in what order they come."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sysbackup.errors import UsageError
from sysbackup.formats import keys
from sysbackup.model import full_name, names_manifest, run_started, worked_under, working_name
from tests.support.clock import START

OLDER = "20261123T041500Z-3fa9"


def test_names_sort_as_runs_start() -> None:
    """Runs of one second have an order, too: a ten-thousandth of a second is enough."""
    starts = [START + timedelta(microseconds=100 * n) for n in range(10_001)]
    names = [working_name(start) for start in starts]
    assert sorted(names) == names
    manifests = [full_name(name) for name in names]
    assert sorted(manifests) == manifests


def test_runs_of_one_instant_have_names_of_their_own() -> None:
    """A clock that stands still gives no two manifests one name."""
    working = [working_name(START) for _ in range(50)]
    assert len(set(working)) > 40
    assert len({full_name(working[0]) for _ in range(1000)}) == 1000


def test_a_full_name_begins_with_the_working_name() -> None:
    """Whoever knows the one finds the other, and both tell when the run began, wherever it was."""
    start = datetime(2026, 11, 23, 5, 15, 30, 999_999, tzinfo=timezone(timedelta(hours=1)))
    working = working_name(start)
    assert working.startswith("20261123T041530Z-ffff")
    assert full_name(working).startswith(working)
    assert worked_under(full_name(working)) == working
    for name in (working, full_name(working)):
        assert run_started(name) == datetime(2026, 11, 23, 4, 15, 30, tzinfo=UTC)


def test_names_of_older_runs_are_read() -> None:
    """Runs of earlier versions have four digits; nothing of theirs was secret."""
    assert run_started(OLDER) == START
    assert names_manifest(OLDER)
    assert worked_under(OLDER) is None


def test_no_manifest_has_a_working_name() -> None:
    """Everybody knows it before the run ends: what lies there is not sysbackup's."""
    assert names_manifest(full_name(working_name(START)))
    assert not names_manifest(working_name(START))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "latest",
        "20261123T041500Z",
        "20261123T041500Z-",
        "20261123T041500Z-3FA9",
        "20261123T041500Z-3fa",
        "20261123T041500Z-3fa91",
        "20261123T041500Z-3fa9\n",
        "20261123T041500Z-+fa9",
        "20261123T041500Z-3_a9",
        "20261323T041500Z-3fa9",
        "2026112T3041500Z-3fa9",
        "20261123T041500Z-٣fa9",
        "20261123T041500Z-3fa93fa93fa93fa90",
    ],
)
def test_other_names_are_none(name: str) -> None:
    """What only resembles a name is no run's."""
    assert not names_manifest(name)
    assert worked_under(name) is None
    with pytest.raises(UsageError, match="not a run's name"):
        run_started(name)


def test_one_key_for_each_manifest() -> None:
    """A host's name written in another way is not taken for that host."""
    assert keys.manifest_parts(keys.manifest_key("web 1/2", OLDER)) == ("web 1/2", OLDER)
    assert keys.manifest_parts(f"manifests/%61lpha/{OLDER}.jsonl.gz") is None
    assert keys.manifest_parts(f"manifests/%ff/{OLDER}.jsonl.gz") is None
