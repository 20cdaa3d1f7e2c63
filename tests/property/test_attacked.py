"""
No promise is ever broken, whoever writes to the bucket.

The machines of `tests.support.promising`, and among the actors somebody with a writer's
rights (`tests.support.attacker`) who acts between any two requests, a bucket that is
emptied, and one whose locks are lifted. Whatever they do: each run that ended
with 0 or 3, and whose promise stands, restores whole under the name that the
honest host printed. And no run fails for it.
"""

import hashlib
import os
import random
import tempfile
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from sysbackup.contents import census
from sysbackup.contents.rebuilding import rebuild
from sysbackup.errors import StoreError, StoreUnavailable
from sysbackup.formats.run_result import Summary
from sysbackup.model import Lock, LockMode
from sysbackup.recovery import stored_runs
from tests.support import backups
from tests.support.attacker import MOVES, Attacker, Watched
from tests.support.memory_store import MemoryStore
from tests.support.mortal import remove
from tests.support.promising import CONTENTS, HOSTS, SEEDS, Fate, Promised, Promises, compared, tell_stories

# Of 50 steps each, in four tests: 12,000 steps; whoever has changed something that they guard may ask for more.
EXAMPLES = int(os.environ.get("SYSBACKUP_ATTACKS", "60"))


class Attacked(Promises):
    """The story of two machines, one bucket, and somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self._attacker = Attacker(self._bucket, CONTENTS)
        self._printed: dict[str, tuple[Summary, dict[bytes, str]]] = {}

    # ---- what others do

    @rule(seed=SEEDS, moves=st.integers(1, 5))
    def attack(self, seed: int, moves: int) -> None:
        """Between two runs."""
        self._attacker.dice.seed(seed)
        for _ in range(moves):
            self._attacker.move()

    @rule(seed=SEEDS, rate=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    def attack_from_now_on(self, seed: int, rate: float) -> None:
        """Between any two requests of the runs to come."""
        self._attacker.dice.seed(seed)
        self._attacker.rate = rate

    @rule(keep=st.sampled_from(["", "", "index/", "manifests/", "packs/", "content/"]))
    def empty_the_bucket(self, keep: str) -> None:
        """By somebody with all rights, or it was made anew; perhaps something was put back."""
        self._lift([k for k in self._bucket.objects if not (keep and k.startswith(keep))])

    @rule(seed=SEEDS)
    def delete_what_is_locked(self, seed: int) -> None:
        """By somebody with the right to bypass locks."""
        dice = random.Random(seed)
        if found := sorted(self._bucket.objects):
            self._lift(dice.sample(found, min(len(found), dice.randrange(1, 4))))

    def _lift(self, gone: list[str]) -> None:
        """Whatever was promised with the help of these keys is void."""
        for key in gone:
            del self._bucket.objects[key]
        for key, promised in [*self._promised.items()]:
            if key in gone or any(at.key in gone for at in promised.all_places):
                del self._promised[key], self._printed[key]

    @rule(
        host=HOSTS,
        seed=SEEDS,
        data=st.lists(st.integers(0, len(CONTENTS) - 1), min_size=1, max_size=4),
        key=st.booleans(),
    )
    def break_in(self, host: str, seed: int, data: list[int], key: bool) -> None:
        """False claims are planted, the host gets other files, its catalog is deleted (with its key), and it runs."""
        self._attacker.dice.seed(seed)
        for move in self._attacker.dice.sample(sorted(MOVES), 3):
            MOVES[move](self._attacker)
        for n, which in enumerate(data):
            self._machines[host].put(f"late{n}", CONTENTS[which], in_place=True)
        if key:
            self.lose_key(host)
            remove(self._machines[host].catalog)
        self._run(host)

    @rule(host=HOSTS)
    def lose_key(self, host: str) -> None:
        """The host knows its own word no more."""
        (self._machines[host].config.state / "host.key").unlink(missing_ok=True)

    @rule(host=HOSTS, from_objects=st.booleans())
    def rebuild_catalog(self, host: str, from_objects: bool) -> None:
        """With the attacker at work meanwhile."""
        machine = self._machines[host]
        self._clock.turn(seconds=5)
        backups.run(rebuild(machine.config, self._store(), self._clock, from_objects=from_objects))
        for aside in machine.catalog.parent.glob("*.unusable-*"):
            remove(aside)

    # ---- runs

    def _store(self) -> MemoryStore:
        return MemoryStore(self._bucket, requests=Watched(self._attacker))

    def _run(
        self,
        host: str,
        fate: Fate | None = None,
        *,
        rescan: bool = False,
        going: bytes | None = None,
        **content: object,
    ) -> None:
        content.pop("verify_shared", None)  # whoever turns it off believes whatever he is told
        self._attacker.aborted = False
        try:
            super()._run(host, fate, rescan=rescan, going=going, **content)
        except StoreError as exc:
            if isinstance(exc, StoreUnavailable) or not self._attacker.aborted:
                raise

    def _take_down(self, expected: dict[bytes, str], mode: LockMode, started: datetime, going: bytes | None) -> None:
        """Not what lies in the bucket counts here, but what the host has printed."""

    def _judge(
        self, summary: Summary, expected: dict[bytes, str], mode: LockMode, fate: Fate | None, going: bytes | None
    ) -> None:
        assert summary.exit_code in (0, 3)
        if mode is LockMode.NONE:
            return
        assert summary.promise is not None
        assert summary.manifest is not None
        places = compared(backups.entries(MemoryStore(self._bucket), summary), expected, going)
        found = backups.run(stored_runs.find_run(MemoryStore(self._bucket), summary.run, summary.host))
        kept = self._bucket.find(found.key, found.version)
        self._promise(summary.manifest, Lock(mode, summary.promise), kept, places)
        self._printed[summary.manifest] = summary, {p: sha for p, sha in expected.items() if p != going}

    # ---- what must hold

    @invariant()
    def every_name_leads_to_its_manifest(self) -> None:
        """And `list` shows it, whatever else there is."""
        found = {run.key: run for run in backups.run(stored_runs.runs(MemoryStore(self._bucket)))}
        for key, promised in self._standing():
            assert found[key].version == promised.manifest.version

    @rule(seed=SEEDS)
    def restore(self, seed: int) -> None:
        """Whole, by the name that was printed."""
        if standing := self._standing():
            key, _ = random.Random(seed).choice(standing)
            summary, expected = self._printed[key]
            with tempfile.TemporaryDirectory(dir=self._base) as place:
                target = Path(place, "target")
                report = backups.restored(MemoryStore(self._bucket), summary, target, spool=Path(place))
                assert not report.problems
                for path, sha in expected.items():
                    assert hashlib.sha256(Path(f"{target}{os.fsdecode(path)}").read_bytes()).hexdigest() == sha

    def _standing(self) -> list[tuple[str, Promised]]:
        return [(k, p) for k, p in sorted(self._promised.items()) if p.until.until > self._clock.now()]


class AttackedInALargeBucket(Attacked):
    """
    The same where the census always stands elsewhere.

    What somebody with the right to bypass locks deletes may go unnoticed for a
    while then, so nobody does.
    """

    def _lift(self, gone: list[str]) -> None:
        """Nothing is lifted here."""


@pytest.mark.lengthy
@pytest.mark.parametrize("beginning", range(2))
def test_whoever_may_write_every_manifest_restores(beginning: int) -> None:
    """Over 6,000 random steps."""
    tell_stories(Attacked, EXAMPLES, beginning)


@pytest.mark.lengthy
@pytest.mark.parametrize("beginning", range(2, 4))
def test_in_a_bucket_too_large_for_the_census_too(beginning: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 6,000 more."""
    monkeypatch.setattr(census, "PAGES", 0)
    monkeypatch.setattr(census, "_HOSTS", 0)
    tell_stories(AttackedInALargeBucket, EXAMPLES, beginning)
