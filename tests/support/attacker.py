"""
Somebody who has stolen a writer's rights: puts any version of any key, markers and longer locks, and sees all there is.

What those rights do not allow is left out: versions cannot be deleted, nor
locks shortened, and the secrets of a host's disk are unknown. See `MOVES`.
"""

import gzip
import hashlib
import random
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from sysbackup.formats import gzipping, index, keys, manifest
from sysbackup.formats.lines import UNREADABLE
from sysbackup.model import RUN_FORM, Lock, LockMode, Member, Span, StoredObject
from sysbackup.store.accounting import Requests
from tests.support.memory_store import Kept, MemoryBucket
from tests.support.packs import pack_writer

HOSTS = ("alpha", "beta", "gamma")


class Attacker:
    """`public`: contents that honest hosts may store, which anybody may know."""

    def __init__(self, bucket: MemoryBucket, public: Sequence[bytes]) -> None:
        self._bucket = bucket
        self._public = public
        self.dice = random.Random(0)
        self.rate = 0.0
        self.aborted = False

    def perhaps(self) -> None:
        """Make a move, between two requests of somebody else; how often, `rate` says."""
        if self.dice.random() < self.rate:
            self.move()

    def move(self) -> None:
        """Do one of `MOVES`."""
        MOVES[self.dice.choice(sorted(MOVES))](self)

    # ---- what the moves are made of

    def _all(self, *prefixes: str) -> list[Kept]:
        """What lies in the bucket under one of these prefixes, in an order that is always the same."""
        keys_there = sorted(key for key in self._bucket.objects if key.startswith(prefixes or ""))
        return [kept for key in keys_there for kept in self._bucket.objects[key] if not kept.marker]

    def _one(self, *prefixes: str) -> Kept | None:
        """One of these."""
        found = self._all(*prefixes)
        return self.dice.choice(found) if found else None

    def _now(self) -> datetime:
        return self._bucket.clock.now()

    def _lock(self) -> Lock | None:
        mode = self.dice.choice([LockMode.NONE, LockMode.GOVERNANCE, LockMode.COMPLIANCE])
        return Lock(mode, self._now() + timedelta(days=self.dice.choice([1, 20, 400])))

    def _add(self, key: str, body: bytes, metadata: dict[str, str] | None = None) -> Kept:
        return self._bucket.add(key, body, lock=self._lock(), metadata=metadata or {})

    def _damaged(self, body: bytes) -> bytes:
        """Bytes that are somehow like these."""
        dice = self.dice
        ways: list[Callable[[], bytes]] = [
            lambda: b"",
            lambda: b"rubbish",
            lambda: gzipping.member(b"rubbish"),
            lambda: body[: dice.randrange(len(body) + 1)],
            lambda: body + gzipping.member(b"rubbish"),
            lambda: other.body if (other := self._one()) else b"",
            lambda: dice.randbytes(len(body)),
            lambda: gzip.compress(body, 1),
            lambda: dice.choice(self._public),
        ]
        if body:
            at = dice.randrange(len(body))
            ways.append(lambda: body[:at] + bytes([body[at] ^ 1 << dice.randrange(8)]) + body[at + 1 :])
        return dice.choice(ways)()

    def _moment(self) -> str:
        """The beginning of the name of a run, of some time."""
        days = self.dice.choice([-40, -1, 0, 0, 0, 0.01, 2, 2_900_000])
        return f"{self._now() + timedelta(days=days):{RUN_FORM}}"

    def _index_name(self) -> str:
        run = f"{self._moment()}-{self.dice.randbytes(4).hex()}"
        return keys.index_key(self.dice.choice(HOSTS), run, self.dice.choice([None, None, 1, 2]))

    def _known_contents(self) -> list[bytes]:
        """The hashes of contents that somebody may want to know of."""
        found = [hashlib.sha256(content).digest() for content in self._public]
        return found + [sha for key in sorted(self._bucket.objects) if (sha := keys.content_sha(key))]

    def _false_line(self) -> bytes:
        """A line that an index may have, about contents that lie elsewhere or nowhere."""
        dice = self.dice
        there = self._one("packs/", "content/")
        if there is None or dice.random() < 0.1:
            there = Kept(keys.pack_key(dice.randbytes(32)), dice.randbytes(16).hex(), bytes(900), "", self._now())
        version = dice.choice([there.version, there.version, "", dice.randbytes(16).hex(), "v" * 1024, "null"])
        until = dice.choice([self._now(), self._now() + timedelta(days=30), self._now() + timedelta(days=300)])
        size = dice.choice([len(there.body), len(there.body), 1, 10**12])
        stored = StoredObject(there.key, version, size, Lock(LockMode.GOVERNANCE, until))
        if (alone := keys.content_sha(there.key)) is not None:
            said = [Member(alone, dice.choice([-1, 0, len(there.body), 700]))]
        else:
            known = dice.sample(self._known_contents(), 3)
            said = [Member(sha, 300, Span(at := dice.randrange(50), 18 + dice.randrange(900 - at))) for sha in known]
        teller = dice.choice([None, None, None, "alpha", "beta"])
        line = msgspec.json.decode(index.line(stored, dice.choice([None, "gzip"]), said, teller))
        if dice.random() < 0.3:
            line["mac"] = dice.randbytes(32).hex()
        return msgspec.json.encode(line) + b"\n"

    # ---- the moves

    def _overwrite(self) -> None:
        """A newer version of any key, like the one there or not at all."""
        if kept := self._one():
            metadata = dict(kept.metadata)
            if self.dice.random() < 0.3:
                metadata = self.dice.choice([{}, {keys.ENCODING: "gzip"}, {keys.PACK_INDEX: "0"}])
            self._add(kept.key, self._damaged(kept.body), metadata)

    def _repeat(self) -> None:
        """An equal version of any key, with another lock."""
        if kept := self._one():
            self._add(kept.key, kept.body, dict(kept.metadata))

    def _hide(self) -> None:
        if kept := self._one():
            self._bucket.hide(kept.key)

    def _lengthen(self) -> None:
        """Any lock can be made longer, and put where there was none."""
        if kept := self._one():
            new = self._lock()
            if new is not None and new.mode is not LockMode.NONE:
                old = kept.lock
                kept.lock = Lock(old.mode, max(old.until, new.until)) if old else new

    def _plant_content(self) -> None:
        """Rubbish under the key of a content that a host may store later."""
        content = self.dice.choice(self._public)
        key = keys.content_key(hashlib.sha256(content).digest())
        self._add(key, self._damaged(content), self.dice.choice([{}, {keys.ENCODING: "gzip"}]))

    def _plant_pack(self) -> None:
        """A pack whose list lies; its key is true, or it is not."""
        writer = pack_writer()
        for sha in self.dice.sample(self._known_contents(), 3):
            writer.add(sha, gzipping.member(self.dice.choice([b"rubbish", *self._public])), 300)
        pack = writer.finish()
        sha = self.dice.choice([pack.sha, pack.sha, self.dice.randbytes(32)])
        self._add(keys.pack_key(sha), bytes(pack.body), {keys.PACK_INDEX: str(pack.index)})

    def _plant_index(self) -> None:
        """An index of lies, in anybody's name."""
        lines = b"".join(self._false_line() for _ in range(self.dice.randrange(1, 6)))
        self._add(self._index_name(), gzip.compress(index.header(self.dice.choice(HOSTS), "x") + lines, 1))

    def _claim_everything(self) -> None:
        """An index that gives each content that a host may store a place in something locked for a long time."""
        known = self._known_contents()
        own = Lock(LockMode.GOVERNANCE, self._now() + timedelta(days=self.dice.choice([40, 400])))
        body = self._damaged(self.dice.choice(self._public)) + bytes(20)
        key = keys.pack_key(hashlib.sha256(body).digest())
        kept = self._bucket.add(key, body, lock=own)
        stored = StoredObject(key, kept.version, len(body), own)
        said = [Member(sha, self.dice.choice([300, -1]), Span(0, 18)) for sha in known]
        line = msgspec.json.decode(index.line(stored, "gzip", said))
        if self.dice.random() < 0.5:
            line["mac"] = self.dice.randbytes(32).hex()
        text = index.header(self.dice.choice(HOSTS), "x") + msgspec.json.encode(line) + b"\n"
        for content in self._public:  # and those that are stored alone, as they are or not at all
            sha = hashlib.sha256(content).digest()
            alone = self._bucket.add(keys.content_key(sha), self._damaged(content), lock=own)
            stored = StoredObject(alone.key, alone.version, len(alone.body), own)
            text += index.line(stored, self.dice.choice([None, "gzip"]), [Member(sha, len(content))])
        self._add(self._index_name(), gzip.compress(text, 1))

    def _plant_truth(self) -> None:
        """What hosts may store, as it is but in forms of the attacker's choice, told of in an index, open to change."""
        dice = self.dice
        content = dice.choice(self._public)
        sha, half = hashlib.sha256(content).digest(), len(content) // 2
        header = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"n" * 9000 + b"\0"
        body = dice.choice(
            [
                content,
                gzipping.compress(content),
                gzipping.compress(content[:half]) + gzipping.compress(content[half:]),
                header + gzipping.compress(content)[10:],
                gzipping.compress(content) + bytes(8),
            ]
        )
        packed = body is not content and dice.random() < 0.5
        key = keys.pack_key(hashlib.sha256(body).digest()) if packed else keys.content_key(sha)
        kept = self._add(key, body, {} if body is content else {keys.ENCODING: "gzip"})
        until = dice.choice([self._now() - timedelta(days=300), self._now() + timedelta(days=300)])
        version = dice.choice([kept.version, ""])
        stored = StoredObject(key, version, len(body), Lock(LockMode.GOVERNANCE, until))
        said = Member(sha, dice.choice([len(content), -1]), Span(0, len(body) if packed else 0))
        line = index.line(stored, None if body is content else "gzip", [said])
        self._add(self._index_name(), gzip.compress(index.header(dice.choice(HOSTS), "x") + line, 1))

    def _replay_index(self) -> None:
        """An honest index under another name, whole or some of its lines changed, cut, twice or in another order."""
        if (kept := self._one("index/")) is None:
            return
        body = kept.body
        if self.dice.random() < 0.7:
            first, *lines = _unpacked(body).splitlines(keepends=True) or [b"{}\n"]
            self.dice.shuffle(lines)
            body = gzip.compress(first + b"".join(self._twisted(line) for line in lines), 1)
        self._add(self._index_name(), body)

    def _twisted(self, line: bytes) -> bytes:
        """A line of an index of which one field says something else; its seal is left, if it has one."""
        try:
            said = msgspec.json.decode(line)
        except UNREADABLE:
            return line
        if not isinstance(said, dict) or not isinstance(said.get("contents"), list) or self.dice.random() < 0.4:
            return line
        other = self._one("packs/", "content/")
        field, value = self.dice.choice(
            [
                ("ver", self.dice.randbytes(16).hex()),
                ("ver", other.version if other else ""),
                ("key", other.key if other else "packs/"),
                ("until", self._now().timestamp() // 1 + 10_000_000),
                ("until", "soon"),
                ("sz", 12),
                ("enc", None),
                ("of", "beta"),
                ("contents", [[*c[:1], 0, 18, 5] for c in said["contents"] if isinstance(c, list)]),
            ]
        )
        return msgspec.json.encode(said | {field: value}) + b"\n"

    def _plant_manifest(self) -> None:
        """A manifest of any run: ended, yet to come, or going on (as far as its name shows)."""
        if (kept := self._one("manifests/")) is None or (parts := keys.manifest_parts(kept.key)) is None:
            return
        seen = [k.key.split("/")[2] for k in self._all("index/", "snapshots/")]
        names = [parts[1], f"{self._moment()}-{self.dice.randbytes(8).hex()}"]
        # the working name of a run that has published something, and a guess at the rest
        names += [name[:25] + self.dice.randbytes(4).hex() for name in seen[-3:]]
        host, run = self.dice.choice(["alpha", "beta"]), self.dice.choice(names)
        first, *lines = _unpacked(kept.body).splitlines(keepends=True) or [b"{}\n"]
        try:
            header = msgspec.json.decode(first, type=manifest.RunHeader)
        except UNREADABLE:
            return
        header.host, header.run = host, run
        body = manifest.encode(header) + b"".join(line for line in lines if b'"typ":"f"' not in line)
        self._add(keys.manifest_key(host, run), gzip.compress(body, 1))

    def _abort(self) -> None:
        """All unfinished uploads are ended; whoever makes one is told that there is none, and his run may fail."""
        if self._bucket.uploads:
            self._bucket.uploads.clear()
            self.aborted = True


MOVES: dict[str, Callable[[Attacker], None]] = {
    "overwrite": Attacker._overwrite,
    "repeat": Attacker._repeat,
    "hide": Attacker._hide,
    "lengthen": Attacker._lengthen,
    "plant a content": Attacker._plant_content,
    "plant a pack": Attacker._plant_pack,
    "plant an index": Attacker._plant_index,
    "claim everything": Attacker._claim_everything,
    "plant the truth": Attacker._plant_truth,
    "replay an index": Attacker._replay_index,
    "plant a manifest": Attacker._plant_manifest,
    "abort": Attacker._abort,
}


class Watched(Requests):
    """The requests of a store, before each of which somebody may do something."""

    def __init__(self, attacker: Attacker) -> None:
        super().__init__()
        self._attacker = attacker

    def add(self, kind: str, number: int = 1) -> None:
        self._attacker.perhaps()
        super().add(kind, number)


def _unpacked(body: bytes) -> bytes:
    """What was compressed, as far as it goes."""
    try:
        return zlib.decompressobj(31).decompress(body)
    except zlib.error:
        return b""
