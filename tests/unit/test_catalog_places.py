"""Where contents lie, and what files looked like, in a catalog with far more of them than fit into a row."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sysbackup.catalog import hints
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.errors import CatalogUnusable
from sysbackup.formats.index import Indexed
from sysbackup.model import FileState, Member, Span
from tests.support.catalogs import NOW, began, confirmed, due, pack, sha, unknown, until

MANY = 20_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Iterator[SqliteCatalog]:
    with SqliteCatalog(path) as catalog:
        yield catalog


def count(path: Path, query: str) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute(query).fetchone()[0])


def hints_in(path: Path) -> int:
    return count(path, "SELECT total(length(hints)) FROM hints") // 11


def test_a_file_takes_at_most_150_bytes(catalog: SqliteCatalog, path: Path) -> None:
    """Its state and its content together, where each file has a content of its own."""
    run = began(catalog)
    for start in range(0, MANY, 10_000):
        names = range(start, start + 10_000)
        confirmed(run, pack(f"{start}", until(21), 10**7), *names)
        run.files.remember([FileState(1, 5000 + n, 64, 1 << 60, 1 << 60, sha(n)) for n in names])
    run.tidy(NOW)
    catalog.close()
    assert path.stat().st_size <= 150 * MANY


def test_contents_that_begin_alike_are_told_apart(catalog: SqliteCatalog) -> None:
    """By the whole of their hashes, whether their hints wait or are written."""
    alike = [sha(1)[:15] + bytes([n]) + sha(n)[16:] for n in range(200)]
    run = began(catalog)
    packed = [Member(name, 250, Span(100 * n, 100)) for n, name in enumerate(alike[:100])]
    run.contents.confirm(pack("p", until(21)), "gzip", packed)
    run.files.remember([FileState(1, n, 3, 4, 5, name) for n, name in enumerate(alike)])
    for _ in range(2):
        assert unknown(run, alike) == {*alike[100:]}
        assert {name: at.span for name, at in run.contents.locate(alike).items()} == {m.sha: m.span for m in packed}
        found = run.files.unchanged([FileState(1, n, 3, 4, 5) for n in range(200)])
        assert found == {(1, n): name for n, name in enumerate(alike[:100])}
        run.tidy(NOW)


def test_another_hash_that_begins_the_same_is_another_content(catalog: SqliteCatalog) -> None:
    """However much of it is the same."""
    run = began(catalog)
    confirmed(run, pack("p", until(21)), 1)
    other = sha(1)[:31] + bytes([sha(1)[31] ^ 1])
    assert unknown(run, [other]) == {other}
    assert run.contents.locate([other]) == {}


def test_hints_that_lead_nowhere_are_made_anew(catalog: SqliteCatalog, path: Path) -> None:
    """When most do, at a run's end; what is left is found as before."""
    run = began(catalog)
    for name, start in (("p", 0), ("q", 10_000)):
        confirmed(run, pack(name, until(1), 10**7), *range(start, start + 9_000))
    confirmed(run, pack("r", until(21)), *range(20_000, 20_100))
    run.tidy(NOW)
    assert hints_in(path) == 18_100
    run.contents.stored([sha(0), sha(10_000)])
    run.renewals.collect()
    run.renewals.forget([found.number for page in run.renewals.due() for found in page])
    run.tidy(NOW)
    assert hints_in(path) == 100
    run = began(catalog)
    assert run.contents.locate(map(sha, range(20_200))).keys() == {sha(n) for n in range(20_000, 20_100)}


def test_lost_hints_cost_one_run_and_no_more(catalog: SqliteCatalog, path: Path) -> None:
    """What they led to counts as not stored, and is stored again; at the run's end there are hints of all of it."""
    run = began(catalog)
    confirmed(run, pack("p", until(21)), 1, 2)
    run.tidy(NOW)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM hints")
    run = began(catalog)
    confirmed(run, pack("q", until(21)), 1)
    assert {name: at.version for name, at in run.contents.locate([sha(1), sha(2)]).items()} == {sha(1): "version of q"}
    run.tidy(NOW)
    assert began(catalog).contents.locate([sha(1), sha(2)]).keys() == {sha(1), sha(2)}


@pytest.mark.parametrize("waiting", [1, 10, 100, 100_000])
def test_hints_are_written_now_and_then(
    catalog: SqliteCatalog, path: Path, monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    """However many wait in memory, nothing is missing, neither in the run nor after a kill; buckets stay small."""
    monkeypatch.setattr(hints, "_WAITING", waiting)
    run = began(catalog)
    for start in range(0, 5000, 100):
        confirmed(run, pack(f"{start}", until(21)), *range(start, start + 100))
    assert unknown(run, map(sha, range(5100))) == {sha(n) for n in range(5000, 5100)}
    with SqliteCatalog(path) as after_a_kill:
        run = began(after_a_kill)
        assert len(run.contents.locate(map(sha, range(5000)))) == 5000
        run.tidy(NOW)
    assert hints_in(path) == 5000
    assert count(path, "SELECT max(length(hints)) FROM hints") < 11 * 2 * hints._FULL


def test_spans_and_sizes_of_any_length(catalog: SqliteCatalog) -> None:
    """Beyond 4 GiB, of unknown size, and a content that is an object: each comes back as it was told."""
    spanned = [
        Member(sha(1), 250, Span(0, 100)),
        Member(sha(2), -1, Span(100, 1 << 32)),
        Member(sha(3), 1 << 40, Span(1 << 45, 1 << 33)),
    ]
    alone = Member(sha(4), 1 << 50)
    run = began(catalog)
    run.indexes.learn("beta", [Indexed(pack("p", until(1)), "gzip", tuple(spanned))], NOW)
    run.contents.confirm(replace(pack("a", until(1)), key="content/x"), None, [alone])
    run.contents.stored(map(sha, range(5)))
    run.renewals.collect()
    found = {d.stored.key: d for page in run.renewals.due() for d in page}
    assert [run.renewals.members(d.number) for _, d in sorted(found.items())] == [[alone], spanned]
    assert found[pack("p", until(1)).key].holds == (1 << 45) + (1 << 33)
    assert {name: at.span for name, at in run.contents.locate(map(sha, range(5))).items()} == {
        **{m.sha: m.span for m in spanned},
        sha(4): None,
    }


def test_a_content_that_moves_leaves_the_others_where_they_are(catalog: SqliteCatalog) -> None:
    """Piece by piece, until nothing is left of the object but its name."""
    run = began(catalog)
    confirmed(run, pack("p", until(1)), *range(100))
    run.contents.stored([sha(0)])
    run.renewals.collect()
    ((found,),) = run.renewals.due()
    for n in range(100):
        run.contents.confirm(pack(f"{n}", until(21)), "gzip", [Member(sha(n), 250, Span(0, 50))])
        if not n % 25:
            assert [m.sha for m in run.renewals.members(found.number)] == [sha(m) for m in range(n + 1, 100)]
    assert run.renewals.members(found.number) == []
    assert due(run) == {}
    assert catalog.info().contents == 100


def test_invented_hashes_do_no_harm(catalog: SqliteCatalog) -> None:
    """Another host tells of a content whose hash is what stands where nothing is any more."""
    run = began(catalog)
    confirmed(run, pack("p", until(-1)), 1, 2)
    run.indexes.learn("beta", [Indexed(pack("b", until(30)), "gzip", (Member(sha(1), 250, Span(0, 9)),))], NOW)
    zeros = Member(bytes(32), 250, Span(0, 100))
    for name in "cde":
        run.indexes.learn("beta", [Indexed(pack(name, until(30)), "gzip", (zeros,))], NOW)
    assert run.contents.locate([sha(1), sha(2), bytes(32)]).keys() == {sha(1), sha(2)}


def test_a_block_of_files_that_is_damaged_is_not_written_over(catalog: SqliteCatalog, path: Path) -> None:
    """What else is in it would get a checksum that it has not earned."""
    run = began(catalog)
    run.files.remember([FileState(1, 1, 3, 4, 5, sha(1))])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE files SET entries = zeroblob(length(entries))")
    with pytest.raises(CatalogUnusable, match="files"):
        run.files.remember([FileState(1, 2, 3, 4, 5, sha(1))])
