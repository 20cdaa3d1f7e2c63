"""
What lists of chunks need: the objects in which the chunks lie.

A list is worth nothing without them. It falls short where one of them does, is left
where one of them is, and forgotten with it.
"""

import sqlite3
from collections.abc import Container

from sysbackup.catalog.connection import select
from sysbackup.catalog.pieces import needs_in, of_object
from sysbackup.catalog.rows import OBJECT, ObjectRow, damaged, proven_object
from sysbackup.formats import chunk_list


def is_list(row: ObjectRow) -> bool:
    """Whether an object is a list of chunks."""
    return row.encoding == chunk_list.NAME


def needed(db: sqlite3.Connection, row: ObjectRow) -> list[tuple[ObjectRow, int]]:
    """The objects that a list needs, each proven, and how many of their bytes; none for what is no list."""
    if not is_list(row):
        return []
    wanted = dict(need for piece in of_object(db, row) for need in piece.needs())
    found = select(db, f"SELECT {OBJECT} FROM objects WHERE id IN ({{}})", list(wanted))
    rows = {found.number: found for found in (proven_object(*columns) for columns in found)}
    if rows.keys() != wanted.keys():
        raise damaged("pieces")  # with the object, its list would have been forgotten
    return [(rows[number], size) for number, size in sorted(wanted.items())]


def in_need_of(db: sqlite3.Connection, gone: Container[int]) -> set[int]:
    """
    The lists that need one of these objects.

    Of what is damaged there no list is forgotten, or a wrong one: the next who asks what it needs finds out.
    """
    rows = db.execute(
        "SELECT pieces.object, members FROM pieces JOIN objects ON objects.id = pieces.object WHERE encoding = ?",
        (chunk_list.NAME,),
    )
    return {
        number
        for number, members in rows
        if isinstance(members, bytes) and any(needed in gone for needed, _ in needs_in(members))
    }
