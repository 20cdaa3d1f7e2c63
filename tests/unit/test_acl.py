"""POSIX ACLs as text and as the kernel's bytes, against getfacl and setfacl on a real file system."""

import contextlib
import grp
import os
import pwd
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysbackup.errors import FormatError
from sysbackup.files import acl, permissions
from sysbackup.files.owners import Owners

unhurried = settings(deadline=None)  # the machine may be busy with other things


def _set(path: Path, *args: str) -> None:
    subprocess.run(["setfacl", *args, str(path)], check=True)


def _getfacl(path: Path, *args: str) -> list[str]:
    """What getfacl prints, abbreviated to acl(5)'s short form."""
    out = subprocess.run(
        ["getfacl", "--omit-header", "--no-effective", "--absolute-names", *args, str(path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    short = {"user": "u", "group": "g", "mask": "m", "other": "o", "default": "d"}
    rows = []
    for line in out.split():
        words = line.split(":")
        rows.append(":".join([*(short.get(w, w) for w in words[:-2]), *words[-2:]]))
    return rows


def _value(path: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError:
        return None


def _field(path: Path, owners: Owners) -> str:
    """A manifest's `acl` of `path`."""
    text = acl.access_text(path.stat().st_mode, _value(path, acl.ACCESS), owners)
    default = _value(path, acl.DEFAULT)
    return text if default is None else f"{text},{acl.default_text(default, owners)}"


@pytest.mark.parametrize("mode", [0, 0o644, 0o755, 0o640, 0o777, 0o707, 0o4755, 0o1777])
def test_permission_bits_read_like_getfacl(tmp_path: Path, mode: int) -> None:
    """Where there is no ACL attribute, the text is what getfacl makes of the bits, and leads back."""
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    text = _field(path, Owners())
    assert text.split(",") == _getfacl(path)
    assert acl.parse(text, Owners()) == acl.Acl(mode & 0o777, None, None, mode & 0o777)


@pytest.mark.parametrize(
    "entries",
    [
        "u:daemon:r--",
        "u:daemon:rwx,u:bin:---,g:adm:r-x",
        "u:54321:rw-,g:54321:--x",
        "g:adm:rwx,m::r--",
        "u:0:r--,g:0:-w-,o::---",
        "m::---",
    ],
)
def test_named_entries_read_like_getfacl_and_come_back(tmp_path: Path, entries: str) -> None:
    """Named users, groups and masks read like getfacl; what is parsed is what the kernel had."""
    path, copy = tmp_path / "file", tmp_path / "copy"
    path.touch(mode=0o640)
    copy.touch(mode=0o600)
    _set(path, "--no-mask", "-m", f"m::rw-,{entries}")
    text = _field(path, Owners())
    assert text.split(",") == _getfacl(path)
    parsed = acl.parse(text, Owners())
    assert parsed.access == _value(path, acl.ACCESS)
    assert parsed.mode == path.stat().st_mode & 0o777
    assert parsed.access is not None
    os.setxattr(copy, acl.ACCESS, parsed.access)
    assert _getfacl(copy) == _getfacl(path)
    assert copy.stat().st_mode == path.stat().st_mode


def test_default_acl_of_a_directory(tmp_path: Path) -> None:
    """A directory's default ACL follows its access ACL and comes back from the same text."""
    path, copy = tmp_path / "dir", tmp_path / "copy"
    path.mkdir()
    copy.mkdir()
    _set(path, "-m", "u:daemon:rwx,d:u:daemon:rw-,d:g:adm:r--,d:o::---")
    text = _field(path, Owners())
    assert text.split(",") == _getfacl(path)
    parsed = acl.parse(text, Owners())
    assert parsed.access is not None
    assert parsed.default is not None
    os.setxattr(copy, acl.ACCESS, parsed.access)
    os.setxattr(copy, acl.DEFAULT, parsed.default)
    assert _getfacl(copy) == _getfacl(path)


def test_minimal_default_acl(tmp_path: Path) -> None:
    """A default ACL of three entries alone is one: it is not taken for permission bits."""
    path = tmp_path / "dir"
    path.mkdir()
    _set(path, "-m", "d:u::rwx,d:g::r-x,d:o::---")
    parsed = acl.parse(_field(path, Owners()), Owners())
    assert parsed.access is None
    assert parsed.default == _value(path, acl.DEFAULT)


def test_setfacl_takes_our_text(tmp_path: Path) -> None:
    """An administrator can hand a manifest's field to `setfacl --set` as it is."""
    path, copy = tmp_path / "dir", tmp_path / "copy"
    path.mkdir()
    copy.mkdir()
    _set(path, "-m", "u:daemon:rwx,u:54321:r--,d:u:daemon:rw-")
    _set(copy, "--set", _field(path, Owners()))
    assert _getfacl(copy, "--numeric") == _getfacl(path, "--numeric")


def test_long_words_are_understood() -> None:
    """The long form of acl(5) means the same as the short one."""
    long = (
        "user::rw-,user:daemon:r--,group::r--,mask::r--,other::---,"
        "default:user::rwx,default:group::---,default:other::---"
    )
    short = "u::rw-,u:daemon:r--,g::r--,m::r--,o::---,d:u::rwx,d:g::---,d:o::---"
    assert acl.parse(long, Owners()) == acl.parse(short, Owners())


def test_names_that_are_not_here_are_left_out_and_told() -> None:
    """An entry for a user this machine does not have is left out and named; the rest stays."""
    parsed = acl.parse("u::rw-,u:nobody-here:rw-,g::r--,m::rw-,o::---", Owners())
    assert parsed.unknown == ("user nobody-here",)
    assert parsed.mode == 0o660
    assert parsed.access is not None
    assert acl.access_text(0, parsed.access, Owners()) == "u::rw-,g::r--,m::rw-,o::---"


class _Odd(Owners):
    """A machine with names that acl(5)'s text cannot hold."""

    def user(self, uid: int) -> str | int:
        return {7: "a,b", 8: "12", 9: "x:y"}.get(uid, uid)


def test_names_that_text_cannot_hold_are_written_as_numbers() -> None:
    """A comma or colon in a name, or a name of digits, never changes what the text means."""
    parsed = acl.parse("u::rw-,u:7:r--,u:8:r--,u:9:r--,g::---,m::r--,o::---", Owners())
    assert parsed.access is not None
    assert acl.access_text(0, parsed.access, _Odd()) == "u::rw-,u:7:r--,u:8:r--,u:9:r--,g::---,m::r--,o::---"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "u::rw-",
        "u::rw-,g::r--",
        "u::rw-,u:daemon:r--,g::r--,o::r--",
        "u::rwz,g::r--,o::r--",
        "u::rw-,u::r--,g::r--,o::r--",
        "u::rw-,g::r--,o::r--,",
        "u::rw-,g::r--,o:x:r--",
        "u::rw-,u:4294967295:r--,g::r--,m::r--,o::r--",
        "u::rw-,u:99999999999999999999:r--,g::r--,m::r--,o::r--",
        "u::rw-,g::r--,o::r--,d:u::rwx",
        "d:u::rw-,d:g::r--,d:o::r--",
        "d:d:u::rw-,g::r--,o::r--",
        "u::rw-,u:²:r--,g::r--,m::r--,o::r--,x",
    ],
)
def test_nonsense_is_a_format_error(text: str) -> None:
    """Text that is no valid ACL is refused, never half taken."""
    with pytest.raises(FormatError):
        acl.parse(text, Owners())


@unhurried
@given(st.text())
def test_any_text_is_an_acl_or_a_format_error(text: str) -> None:
    """No text from a manifest makes the parser fail in another way."""
    with contextlib.suppress(FormatError):
        acl.parse(text, Owners())


@unhurried
@given(st.binary() | st.binary().map(lambda tail: b"\2\0\0\0" + tail))
def test_any_bytes_are_an_acl_or_a_value_error(value: bytes) -> None:
    """An attribute is either an ACL or refused with the error that callers expect."""
    try:
        text = acl.access_text(0o644, value, Owners())
    except ValueError:
        return
    assert acl.parse(text, Owners()).mode in range(0o1000)


@unhurried
@given(st.integers(0, 0o777), st.dictionaries(st.integers(50_000, 4_294_967_294), st.integers(0, 7), min_size=1))
def test_access_acls_come_back_unchanged(mode: int, users: dict[int, int]) -> None:
    """Text and bytes are two forms of one thing: bytes to text to bytes changes nothing."""
    named = ",".join(f"u:{uid}:{acl._PERMISSIONS[bits]}" for uid, bits in sorted(users.items()))
    first, second, third = acl.access_text(mode, None, Owners()).split(",")
    text = f"{first},{named},{second},m::rwx,{third}"
    parsed = acl.parse(text, Owners())
    assert parsed.access is not None
    assert acl.access_text(0, parsed.access, Owners()) == text


@pytest.mark.parametrize(
    ("mode", "text"), [(0o755, None), (0o4755, "s--"), (0o2755, "-s-"), (0o1777, "--t"), (0o7000, "sst")]
)
def test_flags(mode: int, text: str | None) -> None:
    """Setuid, setgid and sticky read as getfacl's `flags:` line and come back."""
    assert permissions.flags_text(mode) == text
    if text is not None:
        assert permissions.flags_bits(text) == mode & 0o7000


@pytest.mark.parametrize("text", ["", "---x", "xst", "S--", "s-t\n"])
def test_flags_that_are_none(text: str) -> None:
    """Flags of another form are refused."""
    with pytest.raises(FormatError):
        permissions.flags_bits(text)


def test_owners_have_names_where_there_are_names() -> None:
    """A uid reads as its user's name, a number without a user as itself, and names lead back."""
    owners = Owners()
    root, wheel = pwd.getpwuid(0), grp.getgrgid(0)
    assert owners.user(0) == root.pw_name
    assert owners.group(0) == wheel.gr_name
    assert owners.user(54_321) == 54_321
    assert owners.group(54_321) == 54_321
    assert owners.uid("daemon", 9_999) == pwd.getpwnam("daemon").pw_uid
    assert owners.gid("adm", 9_999) == grp.getgrnam("adm").gr_gid


def test_owners_who_are_not_here_keep_their_number() -> None:
    """A name that this machine does not have leads to the number it had where it came from."""
    owners = Owners()
    assert owners.uid("nobody-here", 1_234) == 1_234
    assert owners.gid("nobody-here", 1_234) == 1_234
    assert owners.uid("nobody-here") is None
    assert owners.uid("a\0b", 5) == 5
    assert owners.uid(77, 5) == 77


def test_numeric_owners() -> None:
    """Asked for numbers, names do not count where the number is known."""
    owners = Owners(numeric=True)
    assert owners.uid("daemon", 9_999) == 9_999
    assert owners.gid("adm", 9_999) == 9_999
    assert owners.uid("daemon") == pwd.getpwnam("daemon").pw_uid
