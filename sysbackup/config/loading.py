"""
Reading `conf`: all mistakes at once, each with what is allowed.

A mistyped name must never become a default, so an unknown section or setting
is a mistake that names the nearest known one.
"""

import configparser
import difflib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sysbackup.config.certificates import need_certificates
from sysbackup.config.directories import cache_directory, runtime_directory, state_directory
from sysbackup.config.sections import MIB, S3, Aws, CloudFormation, Config, Content, Daemon, Metrics, Prices, Run
from sysbackup.config.settings import ARCHIVES, SECTIONS, SETTINGS, STORAGE_CLASSES, Setting
from sysbackup.config.units import size_text
from sysbackup.errors import ConfigError
from sysbackup.model import shown

_KNOWN = {(setting.section, setting.name): setting for setting in SETTINGS}
_CREDENTIALS = re.compile(r"\$\{CREDENTIALS_DIRECTORY\}|\$CREDENTIALS_DIRECTORY\b|%d(?![A-Za-z0-9])")
_SECRETS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")

# Of a value that cannot be: as long as any path, which somebody may want to look for.
_QUOTED_AT_MOST = 4096

# configparser stops at the first of some mistakes; its line is taken out then, and the rest is read again.
_MISTAKES_AT_MOST = 50


@dataclass(slots=True)
class ConfigFile:
    """What was read: `config` where there was no mistake; `given` has the settings that stand in the file."""

    path: Path
    config: Config | None = None
    given: set[tuple[str, str]] = field(default_factory=set)
    mistakes: list[str] = field(default_factory=list)


def load_config(directory: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in `directory`. `ConfigError` with every mistake in it."""
    conf = read_config(directory, environ)
    if conf.config is None:
        raise ConfigError(conf.mistakes)
    return conf.config


def read_config(directory: Path, environ: Mapping[str, str]) -> ConfigFile:
    """The same without an exception: the configuration, or every mistake that keeps it from being one."""
    conf = ConfigFile(Path(os.path.abspath(directory)) / "conf")
    text = _text(conf)
    if text is None:
        return conf
    parser = _parse(conf, text)
    values = _values(conf, parser, environ)
    if not conf.mistakes:
        config = _config(conf.path.parent, environ, values)
        conf.mistakes += [f"{conf.path}: {mistake}" for mistake in _contradictions(config)]
        conf.config = None if conf.mistakes else config
    return conf


def _text(conf: ConfigFile) -> str | None:
    path = conf.path
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read()
    except FileNotFoundError:
        conf.mistakes.append(
            f"{path} does not exist: create it (an empty one takes all defaults), or name another directory "
            "with --config-dir or SYSBACKUP_CONFIG_DIR"
        )
        return None
    except OSError as error:
        conf.mistakes.append(f"{path} cannot be read: {error.strerror}")
        return None
    # It says where backups go and with whose rights: who may write it may send them elsewhere.
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        conf.mistakes.append(f"{path} can be written by others than its owner: chmod go-w {path}")
    if status.st_uid not in {0, os.geteuid()}:
        conf.mistakes.append(f"{path} belongs to user {status.st_uid}: it must be root's, or the user's who runs this")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        conf.mistakes.append(f"{path}, line {line}: not UTF-8")
        return None


def _parse(conf: ConfigFile, text: str) -> configparser.RawConfigParser:
    lines = text.splitlines()
    found: list[tuple[int, str]] = []
    while True:
        parser = configparser.RawConfigParser(
            default_section="\0",  # [DEFAULT] is no section that fills all others
            strict=True,
            empty_lines_in_values=False,
        )
        try:
            parser.read_string("\n".join(lines))
        except configparser.Error as error:
            troubles = list(_troubles(error))
            for number, what, instead in troubles:
                found.append((number, what))
                lines[number - 1] = instead
            if troubles and len(found) < _MISTAKES_AT_MOST:
                continue
        break
    conf.mistakes += [f"{conf.path}, line {number}: {what}" for number, what in sorted(found)]
    return parser


def _troubles(error: configparser.Error) -> Iterator[tuple[int, str, str]]:
    """Line, what is wrong with it, and what to read in its stead. The line is not shown: it may hold a secret."""
    if isinstance(error, configparser.DuplicateSectionError) and error.lineno:
        # Its settings are still looked at, as those of a section of another name.
        yield error.lineno, f"[{error.section}] begins a second time", f"[{error.section}\0{error.lineno}]"
    elif isinstance(error, configparser.DuplicateOptionError) and error.lineno:
        section = error.section.partition("\0")[0]
        yield error.lineno, f"[{section}] {error.option} is set a second time", "#"
    elif isinstance(error, configparser.MissingSectionHeaderError):
        yield error.lineno, "stands before the first section, such as [s3]", "#"
    elif isinstance(error, configparser.ParsingError):
        for number, _ in error.errors:
            yield number, "neither a section like [s3] nor a setting like bucket = my-backups", "#"


def _values(
    conf: ConfigFile, parser: configparser.RawConfigParser, environ: Mapping[str, str]
) -> dict[str, dict[str, object]]:
    values: dict[str, dict[str, object]] = {}
    for named in parser.sections():
        section = named.partition("\0")[0]
        if section not in SECTIONS:
            conf.mistakes.append(f"{conf.path}: {_unknown_section(section)}")
            continue
        for name, text in parser.items(named):
            setting = _KNOWN.get((section, name))
            if setting is None:
                conf.mistakes.append(f"{conf.path}: {_unknown_setting(section, name)}")
                continue
            conf.given.add((section, name))
            try:
                values.setdefault(section, {})[name] = _value(setting, text, environ)
            except ValueError as error:
                conf.mistakes.append(f"{conf.path}: {error}")
    return values


def _value(setting: Setting, text: str, environ: Mapping[str, str]) -> object:
    if not text.strip():
        raise ValueError(f"{setting.label} has no value: leave the line out to have its default")
    try:
        if setting.name not in ("credentials_file", "ca_bundle"):
            return setting.kind.parse(text)
        path = setting.kind.parse(_with_credentials_directory(text, environ))
        if setting.name == "ca_bundle":
            need_certificates(Path(str(path)))
            return path
        if not os.path.isfile(str(path)):
            raise ValueError("names no file that exists")
        if not os.access(str(path), os.R_OK):
            raise ValueError("names a file that this user may not read")
    except ValueError as error:
        value = "" if "@" in text else f" = {_quoted(text)}"  # a URL with a password in it stays unseen
        hint = " (a comment needs a line of its own)" if re.search(r"\s[;#]", text) else ""
        raise ValueError(f"{setting.label}{value} {error}{hint}; allowed: {setting.kind.allowed}") from None
    return path


def _with_credentials_directory(text: str, environ: Mapping[str, str]) -> str:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory is None and _CREDENTIALS.search(text):
        raise ValueError(
            "needs CREDENTIALS_DIRECTORY, which is not set: systemd sets it for a service with LoadCredential="
        )
    return _CREDENTIALS.sub(lambda _: directory or "", text)


def _quoted(text: str) -> str:
    value = shown(text.encode())
    return f"'{value}'" if len(value) <= _QUOTED_AT_MOST else f"'{value[:_QUOTED_AT_MOST]}…'"


def _unknown_section(section: str) -> str:
    if section == "DEFAULT":
        return "[DEFAULT] has no meaning here: write each setting in its own section"
    near = difflib.get_close_matches(section.lower(), SECTIONS, n=1, cutoff=0.5)
    known = ", ".join(f"[{name}]" for name in SECTIONS)
    return f"[{_plain(section)}] is no section" + (f": is it [{near[0]}]?" if near else f": there are {known}")


def _unknown_setting(section: str, name: str) -> str:
    label = f"[{section}] {_plain(name)}"
    if name in _SECRETS:
        return f"{label} is no setting: put keys into a file of their own and name it with [aws] credentials_file"
    here = [setting.name for setting in SETTINGS if setting.section == section]
    elsewhere = [setting.label for setting in SETTINGS if setting.name == name]
    if elsewhere:
        return f"{label} is no setting: it belongs into another section, as {' or '.join(elsewhere)}"
    if near := difflib.get_close_matches(name, here, n=1, cutoff=0.6):
        return f"{label} is no setting: is it {near[0]}?"
    if near := difflib.get_close_matches(name, [setting.name for setting in SETTINGS], n=1, cutoff=0.75):
        return f"{label} is no setting: is it " + " or ".join(s.label for s in SETTINGS if s.name == near[0]) + "?"
    return f"{label} is no setting: [{section}] has {', '.join(here)}"


def _plain(name: str) -> str:
    return shown(name.encode())[:80]


def _config(directory: Path, environ: Mapping[str, str], values: Mapping[str, Mapping[str, object]]) -> Config:
    return Config(
        directory=directory,
        cache=cache_directory(environ),
        state=state_directory(environ),
        runtime=runtime_directory(environ),
        aws=msgspec.convert(values.get("aws", {}), Aws),
        s3=msgspec.convert(values.get("s3", {}), S3),
        cloudformation=msgspec.convert(values.get("cloudformation", {}), CloudFormation),
        content=msgspec.convert(values.get("content", {}), Content),
        run=msgspec.convert(values.get("run", {}), Run),
        daemon=msgspec.convert(values.get("daemon", {}), Daemon),
        metrics=msgspec.convert(values.get("metrics", {}), Metrics),
        prices=msgspec.convert(values.get("prices", {}), Prices),
    )


def _contradictions(config: Config) -> Iterator[str]:
    """What no setting says alone: values that do not go together."""
    content, run, s3 = config.content, config.run, config.s3
    if config.aws.role_arn and not config.aws.credentials_file:
        yield "[aws] role_arn works only with credentials_file: for a profile's own role, set profile alone"
    if s3.sse_kms_key_id and not (s3.sse or "").startswith("aws:kms"):
        yield "[s3] sse_kms_key_id works only with sse = aws:kms or aws:kms:dsse"
    yield from _unfit_storage_class(s3)
    if content.pack_below > content.pack_size:
        yield (
            f"[content] pack_below = {size_text(content.pack_below)} is more than "
            f"pack_size = {size_text(content.pack_size)}: such contents would not fit into a pack"
        )
    if run.memory < 4 * content.pack_size:
        yield (
            f"[run] memory = {size_text(run.memory)} is less than four times [content] pack_size "
            f"({size_text(content.pack_size)}): allowed: {size_text(max(4 * content.pack_size, 64 * MIB))} and more"
        )
    if not _is_host(content.host):
        yield f"[content] host: this machine's own name {_quoted(content.host)} cannot be used: set one"


def _is_host(name: str) -> bool:
    try:
        _KNOWN["content", "host"].kind.parse(name)
    except ValueError:
        return False
    return True


def _unfit_storage_class(s3: S3) -> Iterator[str]:
    if s3.storage_class in ARCHIVES:
        yield (
            f"[s3] storage_class = {s3.storage_class}: its objects cannot be read back without hours of notice, not "
            "even a manifest: take GLACIER_IR, or let a lifecycle rule of the bucket move content/ and packs/ there"
        )
    elif s3.storage_class and s3.endpoint_url is None and s3.storage_class not in STORAGE_CLASSES:
        near = difflib.get_close_matches(s3.storage_class, STORAGE_CLASSES, n=1)
        hint = f": is it {near[0]}?" if near else f"; allowed: {', '.join(STORAGE_CLASSES)}"
        yield f"[s3] storage_class = {s3.storage_class} is no storage class of S3{hint}"
