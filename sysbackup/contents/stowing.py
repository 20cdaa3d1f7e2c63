"""
Stowing: what an examiner does with the contents that it has read.

It asks the catalog which of them are stored, the run's own process which of the
others are its to store, and puts these into shared memory as the store is to get
them: small ones in a row, as a pack, larger ones by themselves.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from sysbackup.catalog.lookup import Lookup
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.contents.crossing import member_to_bytes, members_from
from sysbackup.formats import encodings, pack
from sysbackup.formats.pack import PackWriter
from sysbackup.model import Member


class Sizes(NamedTuple):
    """
    Contents below `packed_below` bytes go into packs, which are full with `pack_size`.

    A file of up to `whole` bytes is read into memory as a whole; larger ones are cut.
    """

    packed_below: int
    pack_size: int
    whole: int

    @property
    def room(self) -> int:
        """Bytes that a pack takes at the most: the last content comes on top of a full one, and the list."""
        return self.pack_size + encodings.largest(self.packed_below) + pack.LIST_AT_MOST


class OpenPack(NamedTuple):
    """A pack that is being filled, in a slot; `members` as in `crossing`."""

    slot: int
    members: bytes


class Full(NamedTuple):
    """A pack to be stored: what lies in a slot, `length` bytes of it."""

    slot: int
    length: int
    sha: bytes
    list_at: int


class Single(NamedTuple):
    """A content to be stored by itself: `sha` of the content, `body_sha` of its `length` bytes in a slot."""

    slot: int
    length: int
    body_sha: bytes
    sha: bytes
    size: int
    encoding: str | None


class Office(Protocol):
    """The run's own process, as an examiner sees it."""

    def claim(self, shas: Sequence[bytes], used: Sequence[bytes]) -> set[bytes]:
        """Those that are the examiner's to store; `used` are stored, and need a look before the run's end."""
        ...

    def room(self, size: int) -> int:
        """A slot for `size` bytes; waits until there is one."""
        ...

    def give_back(self, slot: int) -> None:
        """The slot was not needed."""
        ...

    def full(self, full: Full, added: bytes) -> None:
        """A pack is to be stored: the contents that were acknowledged of it before, and those `added`."""
        ...

    def single(self, single: Single) -> None:
        """A content is to be stored by itself."""
        ...


class Stower:
    """Puts contents where the store is to get them from. Not for use by two threads at once."""

    def __init__(
        self, lookup: Lookup, office: Office, slots: SharedSlots, sizes: Sizes, begun: OpenPack | None
    ) -> None:
        self._lookup = lookup
        self._office = office
        self._slots = slots
        self._sizes = sizes
        self._slot = begun.slot if begun else None
        self._writer = PackWriter(slots.view(begun.slot), members_from(begun.members)) if begun else None
        self._added: list[Member] = []

    def take_added(self) -> bytes:
        """What was put into the open pack and nobody was told of yet."""
        added, self._added = self._added, []
        return b"".join(map(member_to_bytes, added))

    @property
    def open_slot(self) -> int | None:
        """Where the open pack lies, if there is one."""
        return self._slot

    def stow(self, contents: dict[bytes, bytes], spare: int | None = None, *, anew: bool = False) -> None:
        """
        Of these contents, by hash, store those that are stored nowhere yet.

        `contents` is emptied: each is let go of as soon as it lies where it is to be.
        `spare` is a slot for the one content that is too large for packs, where it was
        asked for before. `anew`: the catalog is not asked what is stored.
        """
        claimed = self._claimed(contents, anew=anew)
        for known in contents.keys() - claimed:
            del contents[known]
        for sha in claimed:
            content = contents.pop(sha)
            if len(content) < self._sizes.packed_below:
                self._pack(sha, content)
            else:
                self._alone(sha, content, spare)
                spare = None
        if spare is not None:
            self._office.give_back(spare)

    def flush(self) -> None:
        """No more contents come: what the open pack holds is stored, however little."""
        if self._writer is None or self._slot is None:
            return
        made = self._writer.finish()
        self._office.full(Full(self._slot, len(made.body), made.sha, made.index), self.take_added())
        self._writer, self._slot = None, None

    def _claimed(self, contents: Iterable[bytes], *, anew: bool) -> list[bytes]:
        unknown = list(contents)
        used: Sequence[bytes] = ()
        if not anew:
            stored = self._lookup.stored(unknown)
            unknown, used = [sha for sha in unknown if sha not in stored.shas], stored.used
        if not unknown and not used:
            return []
        claimed = self._office.claim(unknown, used)
        return [sha for sha in unknown if sha in claimed]

    def _pack(self, sha: bytes, content: bytes) -> None:
        member = pack.encode(content)
        if self._writer is None:
            self._slot = self._office.room(self._sizes.pack_size)
            self._writer = PackWriter(self._slots.view(self._slot))
        self._added.append(self._writer.add(sha, member, len(content)))
        if len(self._writer) >= self._sizes.pack_size or self._writer.contents >= pack.CONTENTS_AT_MOST:
            self.flush()

    def _alone(self, sha: bytes, content: bytes, slot: int | None) -> None:
        encoding, encoded = encodings.encode(content)
        if slot is None:
            slot = self._office.room(len(encoded))
        self._slots.view(slot, len(encoded))[:] = encoded
        body_sha = hashlib.sha256(encoded).digest() if encoding.name else sha
        self._office.single(Single(slot, len(encoded), body_sha, sha, len(content), encoding.name))
