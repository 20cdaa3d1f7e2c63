"""What an error of SQLite's says: whether the file is to blame, or the disk."""

import sqlite3

# Primary result codes (sqlite.org/rescode.html) that speak of the disk, the file system, or another process in the
# way. All others are about what is in the file: our statements do not change.
_NOT_THE_FILE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_AUTH,
    }
)

# What a statement may raise: Python cannot even say what SQLite does where that quotes a name which is not UTF-8.
SqlError = (sqlite3.Error, UnicodeDecodeError)


def damage_in(error: sqlite3.Error | UnicodeDecodeError) -> str | None:
    """What is wrong with the file by an error of `SqlError`; None where it says nothing of the file."""
    if isinstance(error, UnicodeDecodeError):
        return "there are names in it that are not UTF-8"
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return None if code & 0xFF in _NOT_THE_FILE else str(error)
    # Of Python's own: it could not decode a text, and would quote it, whatever bytes that are.
    return "there is text in it that is not UTF-8" if isinstance(error, sqlite3.OperationalError) else str(error)
