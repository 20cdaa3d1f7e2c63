"""Lists of chunks in the catalog, in SQLite and in memory: they are worth as much as what they need."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from sysbackup.catalog.interface import Catalog, Due, Named, Session
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.errors import CatalogUnusable
from sysbackup.formats import chunk_list, keys
from sysbackup.formats.index import Indexed
from sysbackup.model import FileState, Lock, Member, StoredObject
from tests.support.catalogs import NOW, began, confirmed, members, news, pack, sha, until
from tests.support.memory_catalog import MemoryCatalog
from tests.support.memory_file import MemoryFile

LIST = sha("large")
STATE = FileState(1, 2, 3, 4, 5, LIST)
ALIKE = [FileState(1, 2, 3, 4, 5, b"")]

Opening = Callable[[], Catalog]


@pytest.fixture(params=["sqlite", "memory"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    """A catalog of either kind in turn."""
    made: Catalog = (
        SqliteCatalog(tmp_path / "catalog.sqlite") if request.param == "sqlite" else MemoryCatalog(MemoryFile())
    )
    with closing(made):
        yield made


def listed(lock: Lock) -> StoredObject:
    return StoredObject(keys.content_key(LIST), "version of the list", 70, lock)


def named(*packs: str) -> dict[Named, int]:
    """As needs, by the names of packs: ten bytes of the first, twenty of the next."""
    return {(keys.pack_key(sha(name)), f"version of {name}"): 10 * n for n, name in enumerate(packs, 1)}


def confirm(run: Session, lock: Lock, needs: Mapping[Named, int]) -> None:
    run.contents.confirm(listed(lock), chunk_list.NAME, [Member(LIST, 5000)], needs)


def stored(run: Session) -> bool:
    return bool(run.contents.stored([LIST]))


def to_see_to(run: Session) -> list[Due]:
    """What `collect` found."""
    return [each for page in run.renewals.due() for each in page]


def learnt(run: Session, *packs: str) -> None:
    """Beta says that it has stored these packs of one content each."""
    said = [Indexed(pack(name, until(90)), "gzip", tuple(members(name))) for name in packs]
    run.indexes.learn("beta", said, NOW, doubting=True)


def test_it_is_renewed_with_what_it_needs(catalog: Catalog) -> None:
    """What is due of each is what the list uses of it, whether or not the list's own lock would do."""
    run = began(catalog)
    confirmed(run, pack("p", until(15)), 1)
    confirmed(run, pack("q", until(60)), 2)
    confirm(run, until(60), named("p", "q"))
    late = began(catalog, days=30)
    assert stored(late)
    assert late.renewals.collect() == 1
    (found,) = to_see_to(late)
    assert (found.stored.key, found.used) == (keys.pack_key(sha("p")), 10)
    with pytest.raises(CatalogUnusable):
        late.contents.locate([LIST], promised=True)
    late.renewals.renewed(found.number, until(40), checked=False)
    (place,) = late.contents.locate([LIST], promised=True).values()
    assert (place.key, place.encoding, place.span) == (keys.content_key(LIST), chunk_list.NAME, None)
    last = began(catalog, days=70)
    assert stored(last)
    assert last.renewals.collect() == 3
    assert sorted(each.used for each in to_see_to(last)) == [10, 20, 70]


def test_a_file_is_unchanged_as_long_as_all_of_it_is_there(catalog: Catalog) -> None:
    """Its list is as good as the worst of what it needs: to be seen to, left, or gone."""
    run = began(catalog)
    confirmed(run, pack("p", until(60)), 1)
    confirmed(run, pack("q", until(15)), 2)
    confirm(run, until(60), named("p", "q"))
    run.files.remember([STATE])
    assert run.files.unchanged(ALIKE) == {(1, 2): LIST}
    late = began(catalog, days=30)
    assert late.files.unchanged(ALIKE) == {(1, 2): LIST}  # noted as used, since it falls short
    late.renewals.collect()
    (found,) = to_see_to(late)
    late.renewals.leave(found.number)
    assert not stored(late)
    assert not late.files.unchanged(ALIKE)
    assert not late.contents.locate([LIST], leaving=False)
    assert late.contents.locate([LIST])
    late.renewals.forget([found.number])
    assert not late.contents.locate([LIST])
    again = began(catalog)
    confirmed(again, pack("q", until(60)), 2)
    assert not stored(again)


def test_it_goes_with_what_it_needs(catalog: Catalog) -> None:
    """However that goes: with its host, with all that nobody has proven, or long after its lock has ended."""
    ways: list[Callable[[Session], object]] = [
        lambda run: run.renewals.forget_host("beta"),
        lambda run: run.indexes.forget_unproven(),
        lambda run: run.indexes.restrict(lambda host: host != "beta"),
    ]
    for go in ways:
        run = began(catalog)
        learnt(run, "b")
        confirm(run, until(60), named("b"))
        assert run.contents.locate([LIST])
        go(run)
        assert not run.contents.locate([LIST])
    run = began(catalog)
    confirmed(run, pack("p", until(1)), 1)
    confirm(run, until(900), named("p"))
    run.tidy(NOW + timedelta(days=400))
    assert not run.contents.locate([LIST])


def test_what_it_needs_must_be_known(catalog: Catalog) -> None:
    """Else it is not taken, and the run that counts on it is told."""
    run = began(catalog)
    confirm(run, until(60), named("p"))
    assert run.contents.refuted
    assert not run.contents.locate([LIST])


def test_it_is_no_truer_than_what_it_needs(catalog: Catalog) -> None:
    """One that a run makes from another host's word counts for later runs when that has been proven, not before."""
    run = began(catalog, doubting=True)
    learnt(run, "b", "c")
    confirm(run, until(60), named("b", "c"))
    run.files.remember([STATE])
    assert run.contents.locate([LIST], leaving=False)  # the run itself counts on it: what it needs it will prove
    assert not stored(run)
    assert not stored(began(catalog, doubting=True))
    assert not began(catalog, doubting=True).files.unchanged(ALIKE)
    assert stored(began(catalog))  # which believes what it is told
    run = began(catalog, doubting=True)
    confirm(run, until(60), named("b", "c"))
    run.contents.use([sha("b"), sha("c")])
    run.renewals.collect()
    first, second = to_see_to(run)
    run.renewals.renewed(first.number, until(90), checked=True)
    run.renewals.vouch(believing=False)
    with pytest.raises(CatalogUnusable):
        run.contents.locate([LIST], promised=True)
    run.renewals.renewed(second.number, until(90), checked=True)
    run.renewals.vouch(believing=False)
    assert run.contents.locate([LIST], promised=True)
    assert stored(began(catalog, doubting=True))


def test_one_that_an_earlier_run_has_made_nobody_vouches_for(catalog: Catalog) -> None:
    """What that counted on may lie elsewhere by now, and then is not what is proven."""
    learnt(run := began(catalog, doubting=True), "b")
    confirm(run, until(60), named("b"))
    run = began(catalog, doubting=True)
    run.renewals.vouch(believing=True)
    assert not stored(run)


def test_it_alone_is_vouched_for(catalog: Catalog) -> None:
    """Not what comes into the catalog in its place, when it is gone."""
    run = began(catalog, doubting=True)
    learnt(run, "b")
    confirm(run, until(60), named("b"))
    run.renewals.forget_host("beta")
    learnt(run, "c", "d")
    run.renewals.vouch(believing=True)
    run.contents.use([sha("c"), sha("d")])
    run.renewals.collect()
    assert [each.checked for each in to_see_to(run)] == [False, False]


def test_a_list_that_stands_for_nothing_needs_nothing(catalog: Catalog) -> None:
    """What it was of has another by now."""
    run = began(catalog)
    confirmed(run, pack("p", until(60)), 1)
    confirmed(run, pack("q", until(60)), 2)
    confirm(run, until(60), named("p"))
    other = StoredObject(keys.content_key(LIST), "another version", 70, until(60))
    run.contents.confirm(other, chunk_list.NAME, [Member(LIST, 5000)], named("q"))
    assert catalog.info().objects == 4
    late = began(catalog, days=70)
    late.contents.use([sha(1)])
    late.renewals.collect()
    (found,) = to_see_to(late)
    late.renewals.forget([found.number])
    assert catalog.info().objects == 3


def test_what_was_believed_once_is_not_proven_for_its_sake(catalog: Catalog) -> None:
    """Where samples do; only the lock of what it needs counts then."""
    run = began(catalog, doubting=True)
    learnt(run, "b")
    confirm(run, until(120), named("b"))
    run.renewals.vouch(believing=True)
    later = began(catalog, doubting=True)
    assert stored(later)
    later.contents.use([LIST])
    assert later.renewals.collect() == 0
    assert later.contents.locate([LIST], promised=True)
    last = began(catalog, days=100, doubting=True)
    assert stored(last)
    assert last.renewals.collect() == 1
    assert [each.stored.key for each in to_see_to(last)] == [keys.pack_key(sha("b"))]


def test_only_ones_own_sealed_lists_are_learnt(catalog: Catalog) -> None:
    """With what they need, also where the contents of that lie elsewhere by now."""
    run = began(catalog)
    confirmed(run, pack("p", until(60)), 1)
    needs = tuple((*name, size) for name, size in named("p", "q").items())
    told = Indexed(listed(until(60)), chunk_list.NAME, (Member(LIST, 5000),), needs=needs)
    sealed = Indexed(told.stored, told.encoding, told.contents, sealed=True, needs=needs)
    known = Indexed(pack("q", until(60)), "gzip", tuple(members(1)), sealed=True)
    run.indexes.learn("beta", [known, told], NOW)
    run.indexes.learn("alpha", [told], NOW)
    assert not run.contents.locate([LIST])
    run.indexes.learn("alpha", [sealed], NOW)
    run.indexes.learn("alpha", [known, sealed], NOW)
    assert run.contents.locate([LIST])


def test_an_index_tells_what_it_needs(catalog: Catalog) -> None:
    """As its host's own word when it is proven, as nobody's before."""
    run = began(catalog, doubting=True)
    confirmed(run, pack("p", until(60)), 1)
    learnt(run, "b")
    confirm(run, until(60), named("p", "b"))
    (found,) = (each for each in news(run) if each.encoding == chunk_list.NAME)
    assert found.teller == "alpha"
    assert {(key, version): size for key, version, size in found.needs} == named("p", "b")
    run.indexes.published("index/alpha/20261123T041500Z-0000.00001.jsonl.gz", None)
    run.renewals.vouch(believing=True)
    (found,) = news(run)
    assert (found.stored.key, found.teller) == (keys.content_key(LIST), None)
