"""Between reading and knowing: who stores which content, and what the store has confirmed."""

import asyncio
from collections.abc import Callable, Collection, Sequence

from sysbackup.catalog.interface import NO_NEEDS, Contents, Needs
from sysbackup.contents.account import Account
from sysbackup.contents.claims import Claims
from sysbackup.model import Member, StoredObject


class Confirming:
    """Joins what is `known`, what is claimed, and what is counted. For the event loop's thread."""

    def __init__(self, known: Contents, claims: Claims, account: Account) -> None:
        self.known = known
        self.account = account
        self._claims = claims

    async def claim(self, shas: Sequence[bytes], begun: int, *, looked: bool = True) -> set[bytes]:
        """
        Those of the contents that the caller is to store: they are stored nowhere, and nobody else stores them.

        `begun`, from `Claims.looking`, is when the caller began to look them up; it `looked`, and found none of them.
        """
        if looked and self._claims.certain(begun):
            granted = self._claims.claim(shas, begun)
            self.known.absent(granted)
            return granted
        while True:
            begun = self._claims.now  # the caller's own look, which goes on, keeps what comes from now on
            stored = await asyncio.to_thread(self.known.stored, shas)
            shas = [sha for sha in shas if sha not in stored]
            if self._claims.certain(begun):
                # none of them is absent for that: what is to be stored anew lies in an object that is left
                return self._claims.claim(shas, begun)

    async def look_and_claim(self, shas: Sequence[bytes]) -> tuple[set[bytes], set[bytes]]:
        """The same of contents that nobody has looked up; and those that somebody stores at this moment."""
        while True:
            with self._claims.looking() as begun:
                stored = await asyncio.to_thread(self.known.stored, shas)
                if self._claims.certain(begun):
                    absent = [sha for sha in shas if sha not in stored]
                    under_way = self._claims.claimed(absent)
                    return self._claims.claim(absent, begun), under_way

    def abandon(self, shas: Collection[bytes]) -> None:
        """Give claims back that others may have counted on: their files are looked at again before the manifest."""
        self._claims.release(shas)
        self._claims.abandoned |= bool(shas)

    def missed(self, *, again: bool) -> None:
        """A content could not be stored; its file is looked at `again` before the manifest, or left out."""
        self._claims.unfulfilled = True
        self._claims.abandoned |= again

    async def confirm(
        self,
        stored: StoredObject,
        encoding: str | None,
        members: Callable[[], Sequence[Member]],
        needs: Needs = NO_NEEDS,
    ) -> None:
        """The store has confirmed an object with these contents; what a list `needs` was counted with its chunks."""

        def confirm() -> tuple[frozenset[bytes], int]:
            held = members()
            self.known.confirm(stored, encoding, held, needs)
            return frozenset(member.sha for member in held), sum(member.size for member in held)

        shas, plain = await asyncio.to_thread(confirm)
        self._claims.stored(shas)
        self.account.stored(stored, len(shas), plain=0 if needs else plain)
