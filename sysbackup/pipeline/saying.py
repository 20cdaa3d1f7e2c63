"""What a snapshotter says of its data: in the manifest as it is, in the object's metadata as far as these go."""

from urllib.parse import quote

from sysbackup.formats import keys
from sysbackup.programs.running import Running

RESTORE_THROUGH = "::restore-through::"

# What a description may hold: it stands in the manifest, in memory, and in part in the object's metadata.
_SAID_AT_MOST = 256 << 10
# S3: "user-defined metadata is limited to 2 KB", keys and values together (User Guide, "Working with object metadata").
_METADATA_AT_MOST = 1900

# What stands before metadata that are percent-encoded. Not RFC 2047's form: S3 decodes that on arrival (User Guide,
# same place), and what a header cannot hold would be in its answers.
_ENCODED = "UTF-8''"


class Said:
    """What a snapshotter says on standard output: the description and, from its last such line, the restore command."""

    def __init__(self) -> None:
        self._text = bytearray()

    async def listen(self, program: Running) -> None:
        """Take in all of it; what is beyond the bound is read and dropped, so that the program can go on."""
        async for chunk in program.output():
            self._text += chunk[: max(0, _SAID_AT_MOST - len(self._text))]

    def understood(self) -> tuple[str, str | None]:
        """(description, restore command) as far as said."""
        described = []
        restore = None
        for line in self._text.decode("utf-8", "replace").splitlines():
            if line.startswith(RESTORE_THROUGH):
                restore = line.removeprefix(RESTORE_THROUGH).strip() or restore
            else:
                described.append(line)
        return "\n".join(described).strip(), restore

    def metadata(self) -> dict[str, str]:
        """
        The same as metadata of an object.

        Headers hold printable ASCII: such a text stays as it is, which is how
        s3-sysbackup 0.2.0 takes it. Any other is percent-encoded and marked. A
        description too long is cut, a command too long left out whole: half a
        command is worse than none, and the manifest has both.
        """
        description, restore = self.understood()
        found = {}
        left = _METADATA_AT_MOST
        if restore is not None and len(command := _header(restore)) <= left // 2:
            found[keys.RESTORE] = command
            left -= len(command)
        if description:
            while len(text := _header(description)) > left:
                description = description[: max(1, len(description) * left // len(text) - 1)]
            found[keys.DESCRIPTION] = text
        return found


def _header(text: str) -> str:
    """The text itself, or after a mark as RFC 8187 has it (`UTF-8''a%0Ab`) with `%` for what is no printable ASCII."""
    if text.isascii() and text.isprintable() and not text.startswith(_ENCODED):
        return text
    return _ENCODED + quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
