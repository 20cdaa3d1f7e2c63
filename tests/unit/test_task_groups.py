"""One error out of many."""

import asyncio

import pytest

from sysbackup.concurrency.task_groups import one_error, tasks
from sysbackup.errors import BusyError, SpoolError, StoreError, expected, foremost, leaves
from tests.support.backups import run


def _nested() -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup(
        "all",
        [ExceptionGroup("inner", [KeyError("first"), SpoolError("second")]), BusyError("third"), OSError("fourth")],
    )


def test_groups_in_groups_are_taken_apart_in_order() -> None:
    """What is no group stands for itself."""
    assert [str(error) for error in leaves(_nested())] == ["'first'", "second", "third", "fourth"]
    alone = OSError("alone")
    assert list(leaves(alone)) == [alone]


def test_people_see_our_errors_before_others() -> None:
    """They say what to do; where there is none of ours, the first is shown."""
    assert str(foremost(_nested())) == "second"
    assert str(foremost(ExceptionGroup("", [OSError("one"), KeyError("two")]))) == "one"


def test_what_is_not_expected_among_errors_makes_all_unexpected() -> None:
    """A defect is not hidden behind an error for people."""
    ours = ExceptionGroup("", [SpoolError("one"), ExceptionGroup("", [StoreError("two")])])
    found = expected(ours)
    assert found is not None
    assert [str(error) for error in found] == ["one", "two"]
    assert expected(_nested()) is None
    assert expected(OSError()) is None


def test_an_error_of_a_task_comes_out_as_itself() -> None:
    """With the group as its cause, and after the siblings were cancelled."""

    async def work() -> None:
        ended: list[str] = []

        async def sibling() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("sibling")

        async def fail() -> None:
            raise StoreError("the store is gone")

        async def both() -> None:
            async with tasks() as group:
                group.create_task(sibling())
                group.create_task(fail())

        with pytest.raises(StoreError, match="the store is gone") as caught:
            await both()
        assert isinstance(caught.value.__cause__, BaseExceptionGroup)
        assert ended == ["sibling"]

    run(work())


def test_what_is_no_group_passes() -> None:
    """As does a cancellation: that is nobody's error."""
    with pytest.raises(KeyError), one_error():
        raise KeyError

    async def work() -> None:
        async def wait() -> None:
            async with tasks() as group:
                group.create_task(asyncio.Event().wait())

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(work())
