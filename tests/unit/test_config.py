"""Reading `conf`."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from sysbackup.config.bandwidth import Bandwidth, Window
from sysbackup.config.directories import cache_directory, config_directory, runtime_directory, state_directory
from sysbackup.config.loading import load_config, read_config
from sysbackup.config.sections import GIB, MIB, S3, Aws, CloudFormation, Config, Content, Daemon, Metrics, Prices, Run
from sysbackup.config.settings import SETTINGS
from sysbackup.errors import ConfigError
from sysbackup.model import LockMode

Conf = Callable[..., Path]


@pytest.fixture
def conf(tmp_path: Path) -> Conf:
    """Writes `conf` and returns its directory."""

    def write(text: str | bytes = "", mode: int = 0o640) -> Path:
        path = tmp_path / "conf"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return tmp_path

    return write


def load(directory: Path, **environ: str) -> Config:
    return load_config(directory, environ)


def mistakes(directory: Path, **environ: str) -> list[str]:
    """The mistakes found, without the path that each begins with."""
    with pytest.raises(ConfigError) as caught:
        load_config(directory, environ)
    assert caught.value.exit_code == 78
    path = f"{directory}/conf"
    assert all(mistake.startswith(path) for mistake in caught.value.mistakes)
    return [mistake.removeprefix(path).lstrip(":, ") for mistake in caught.value.mistakes]


def test_an_empty_file_has_all_defaults(conf: Conf) -> None:
    """Those of the specification: two seconds for a lock, 14 days."""
    config = load(conf())
    assert (config.content.lock_timeout, config.content.days_retained) == (2.0, 14)
    assert config.content.lock_mode is LockMode.GOVERNANCE
    assert config.content.host == os.uname().nodename
    assert config.cloudformation.export == "backup-bucket"
    assert (config.aws, config.s3, config.run) == (Aws(), S3(), Run())


def test_every_setting_reaches_its_place(conf: Conf, tmp_path: Path) -> None:
    """With units, in either spelling of the names, and over several lines."""
    keys = tmp_path / "keys"
    keys.touch()
    directory = conf(f"""
# a comment
[aws]
profile = backup
credentials_file = {keys}
role_arn = arn:aws:iam::123456789012:role/path/backup

[s3]
Bucket = my-backups
endpoint_url: https://store.example:9000/
region = eu-central-1
addressing_style = PATH
storage_class = COLD
sse = aws:kms
sse_kms_key_id = alias/backup

[cloudformation]
region = us-east-1
export = other-bucket

[content]
lock_timeout = 0.5
days_retained = 30
lock_mode = compliance
renewal_slack = 1 week
pack_below = 512 KiB
pack_size = 8M
host = web-1
share = web-*,
    db?
chunk_from = 16 MiB
chunk_size = 1 MiB
snapshot_chunk_from = 0
snapshot_chunk_size = 64 KiB
stream_pack_size = 64 MiB
[run]
workers = 3
uploads = 5
memory = 128 MiB
bandwidth = 20 MiB,
    22:00-06:00 = 100 MiB
picker_idle_limit = 1 h 30 min
snapshot_idle_limit = 90
snapshots_at_once = 1
give_up_after = 5 min
""")
    config = load(directory, CACHE_DIRECTORY="/c")
    assert config.directory == directory
    assert config.cache == Path("/c")
    assert config.aws == Aws(
        profile="backup", credentials_file=keys, role_arn="arn:aws:iam::123456789012:role/path/backup"
    )
    assert config.s3 == S3(
        bucket="my-backups",
        endpoint_url="https://store.example:9000",
        region="eu-central-1",
        addressing_style="path",
        storage_class="COLD",
        sse="aws:kms",
        sse_kms_key_id="alias/backup",
    )
    assert config.cloudformation == CloudFormation(region="us-east-1", export="other-bucket")
    assert config.content == Content(
        lock_timeout=0.5,
        days_retained=30,
        lock_mode=LockMode.COMPLIANCE,
        renewal_slack=604800.0,
        pack_below=512 << 10,
        pack_size=8 * MIB,
        host="web-1",
        share=("web-*", "db?"),
        chunk_from=16 * MIB,
        chunk_size=MIB,
        snapshot_chunk_from=0,
        snapshot_chunk_size=64 << 10,
        stream_pack_size=64 * MIB,
    )
    assert config.content.lock_mode is LockMode.COMPLIANCE
    assert config.run == Run(
        workers=3,
        uploads=5,
        memory=128 * MIB,
        bandwidth=Bandwidth(20 * MIB, (Window(22 * 60, 6 * 60, 100 * MIB),)),
        picker_idle_limit=5400.0,
        snapshot_idle_limit=90.0,
        snapshots_at_once=1,
        give_up_after=300.0,
    )


def test_the_table_has_every_setting_that_there_is() -> None:
    """A field of a struct that `conf` could not set, or check-config would not show, cannot be added."""
    structs: dict[str, type[msgspec.Struct]] = {
        "aws": Aws,
        "s3": S3,
        "cloudformation": CloudFormation,
        "content": Content,
        "run": Run,
        "daemon": Daemon,
        "metrics": Metrics,
        "prices": Prices,
    }
    assert {(setting.section, setting.name) for setting in SETTINGS} == {
        (section, field.name) for section, struct in structs.items() for field in msgspec.structs.fields(struct)
    }


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.label)
def test_every_default_is_allowed_and_can_be_written(conf: Conf, setting: object) -> None:
    """What check-config prints as a default is a value that the file may have."""
    config = load(conf())
    for known in SETTINGS:
        if known is setting:
            value = getattr(getattr(config, known.section), known.name)
            if value is not None:
                assert known.kind.parse(known.kind.text(value)) == value


def test_all_mistakes_come_at_once(conf: Conf) -> None:
    """Names, values, duplicates and syntax: whoever mends the file mends it once."""
    found = mistakes(
        conf("""bucket = stray
[s3]
bucket = s3://my-backups/path
bucket = again
what is this
[content]
days_retaind = 30
days_retained = 0
lock_mode = firm
pack_size = 16 Mio
lock_timeout = soon
[run]
uploads = 16  # as many as we can
uploads = 17
[s3]
regoin = x
[contents]
""")
    )
    assert found == [
        "line 1: stands before the first section, such as [s3]",
        "line 4: [s3] bucket is set a second time",
        "line 5: neither a section like [s3] nor a setting like bucket = my-backups",
        "line 14: [run] uploads is set a second time",
        "line 15: [s3] begins a second time",
        "[s3] bucket = 's3://my-backups/path' does not have the form that it must have; allowed: a bucket's bare name "
        "such as my-backups, without s3:// and without a path, or an access point's ARN",
        "[content] days_retaind is no setting: is it days_retained?",
        "[content] days_retained = '0' is out of range; allowed: a whole number from 1 to 36500",
        "[content] lock_mode = 'firm' is none of the values that there are; allowed: GOVERNANCE, COMPLIANCE, none",
        "[content] pack_size = '16 Mio' has the unknown unit 'Mio': sizes take B, KiB, MiB, GiB or TiB; "
        "allowed: 64 KiB to 1 GiB",
        "[content] lock_timeout = 'soon' is not a duration: write a number and a unit, as in 15 min; "
        "allowed: 0 s to 1 h",
        "[run] uploads = '16  # as many as we can' is not a whole number (a comment needs a line of its own); "
        "allowed: a whole number from 1 to 1000",
        "[s3] regoin is no setting: is it region?",
        "[contents] is no section: is it [content]?",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[S3]", "[S3] is no section: is it [s3]?"),
        ("[DEFAULT]\nbucket = x", "[DEFAULT] has no meaning here: write each setting in its own section"),
        ("[zzz]", "[zzz] is no section: there are [aws], [s3], [cloudformation], [content], [run], [daemon], "
                  "[metrics], [prices]"),
        ("[aws]\nbucket = x", "[aws] bucket is no setting: it belongs into another section, as [s3] bucket"),
        ("[aws]\nregion = x", "[aws] region is no setting: it belongs into another section, as [s3] region or "
                              "[cloudformation] region"),
        ("[s3]\ndays_retaned = 1", "[s3] days_retaned is no setting: is it [content] days_retained?"),
        ("[aws]\nzzz = 1", "[aws] zzz is no setting: [aws] has profile, credentials_file, role_arn"),
        ("[s3]\nbucket =", "[s3] bucket has no value: leave the line out to have its default"),
        ("[s3]\nbu\x1b[2Jcket = x", "[s3] bu\\x1b[2jcket is no setting: is it bucket?"),
    ],
)  # fmt: skip
def test_unknown_names_lead_to_known_ones(conf: Conf, text: str, expected: str) -> None:
    """A mistyped `days_retained` must never become a default."""
    assert mistakes(conf(text)) == [expected]


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("s3", "bucket = My Backups"),
        ("s3", "bucket = ab"),
        ("s3", "bucket = -ab"),
        ("s3", "endpoint_url = store.example"),
        ("s3", "endpoint_url = ftp://store.example"),
        ("s3", "endpoint_url = http://"),
        ("s3", "endpoint_url = http://store.example:99999"),
        ("s3", "endpoint_url = http://store.example/?x=1"),
        ("s3", "addressing_style = virtul"),
        ("s3", "storage_class = STANDARD IA"),
        ("s3", "sse = AES512"),
        ("aws", "role_arn = arn:aws:iam::123456789012:user/x"),
        ("aws", "credentials_file = keys"),
        ("aws", "credentials_file = /no/such/file"),
        ("s3", "ca_bundle = certificates"),
        ("s3", "ca_bundle = /no/such/file"),
        ("s3", "ca_bundle = /etc"),
        ("s3", "ca_bundle = /etc/passwd"),
        ("content", "days_retained = 36501"),
        ("content", "days_retained = 14.5"),
        ("content", "days_retained = ١٤"),
        ("content", "lock_timeout = -1"),
        ("content", "host = a/b"),
        ("content", "host = ..."),
        ("content", "share = a/b"),
        ("run", "uploads = 0"),
        ("run", "uploads = 1001"),
        ("run", "memory = 63 MiB"),
        ("run", "picker_idle_limit = 0"),
        ("run", "bandwidth = 1 KiB"),
        ("run", "bandwidth = 20 MiB/s"),
        ("run", "bandwidth = 08:00-18:00 = 1 MiB, 17:00-19:00 = 2 MiB"),
        ("daemon", "schedule = daily"),
        ("daemon", "schedule = 0 25 * * *"),
        ("daemon", "schedule = 0 0 31 2 *"),
        ("daemon", "schedule = * * *"),
        ("daemon", "schedule = */5 * * * * *"),
        ("daemon", "time_zone = Berlin"),
        ("daemon", "time_zone = ../../etc/passwd"),
        ("daemon", "random_delay = 25 h"),
        ("daemon", "stale_after = 1 s"),
        ("metrics", "listen = 0"),
        ("metrics", "listen = 65536"),
        ("metrics", "listen = localhost:9797"),
        ("metrics", "listen = 300.0.0.1:9797"),
        ("metrics", "listen = ::1:9797"),
        ("metrics", "textfile = sysbackup.prom"),
    ],
)
def test_a_value_that_cannot_be_is_shown_with_what_can(conf: Conf, section: str, line: str) -> None:
    """File, section, setting, value, and what is allowed."""
    name, _, value = line.partition(" = ")
    (mistake,) = mistakes(conf(f"[{section}]\n{line}\n"))
    assert mistake.startswith(f"[{section}] {name} = '{value}' ")
    assert "; allowed: " in mistake


@pytest.mark.parametrize(
    ("section", "line", "meant", "choice"),
    [
        ("content", "renewal_slack = 7", "7 d", "7 s or 7 d"),
        ("content", "renewal_slack = 0.5", "0.5 d", "0.5 s or 0.5 d"),
        ("run", "picker_idle_limit = 15", "15 min", "15 s or 15 min"),
        ("run", "snapshot_idle_limit = 59", "59 min", "59 s or 59 min"),
        ("run", "give_up_after = 5", "5 min", "5 s or 5 min"),
        ("daemon", "random_delay = 30", "30 min", "30 s or 30 min"),
        ("daemon", "stale_after = 36", "36 h", "36 h"),  # 36 s are less than is allowed
    ],
)
def test_a_number_that_lacks_its_unit_is_asked_for_it(
    conf: Conf, section: str, line: str, meant: str, choice: str
) -> None:
    """Seven seconds of slack would renew every lock at every run; and what the question offers is taken."""
    name, _, value = line.partition(" = ")
    (mistake,) = mistakes(conf(f"[{section}]\n{line}"))
    said = f"has no unit, and would be seconds: did you mean {meant}? Write {choice}; allowed"
    assert mistake.startswith(f"[{section}] {name} = '{value}' {said}")
    for written in choice.split(" or "):
        load(conf(f"[{section}]\n{name} = {written}"))


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("[content]\nrenewal_slack = 0", 0),
        ("[content]\nrenewal_slack = 3600", 3600),  # days cannot be meant: too many
        ("[content]\nrenewal_slack = 604800", 604800),
        ("[content]\nlock_timeout = 2", 2),
        ("[run]\npicker_idle_limit = 900", 900),
        ("[daemon]\nrandom_delay = 0", 0),
        ("[daemon]\nstale_after = 129600", 129600),
        ("[daemon]\nhook_limit = 10", 10),
    ],
)
def test_a_number_of_seconds_that_can_mean_nothing_else_needs_no_unit(conf: Conf, line: str, seconds: float) -> None:
    """Nought, what the specification has in seconds, and what is as long as such settings are."""
    section, name = line[1:].partition(" = ")[0].split("]\n")
    assert getattr(getattr(load(conf(line)), section), name) == seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[aws]\nrole_arn = arn:aws:iam::1:role/x", "[aws] role_arn works only with credentials_file"),
        ("[s3]\nsse_kms_key_id = k", "[s3] sse_kms_key_id works only with sse = aws:kms"),
        ("[s3]\nsse = AES256\nsse_kms_key_id = k", "[s3] sse_kms_key_id works only with sse = aws:kms"),
        ("[content]\npack_below = 32 MiB", "pack_below = 32 MiB is more than pack_size = 16 MiB"),
        ("[content]\npack_size = 100 MiB", "[run] memory = 256 MiB is less than four times [content] pack_size"),
        ("[s3]\nstorage_class = DEEP_ARCHIVE", "cannot be read back without hours of notice"),
        ("[s3]\nstorage_class = STANDARD_AI", "is no storage class of S3: is it STANDARD_IA?"),
    ],
)
def test_settings_that_do_not_go_together_are_told(conf: Conf, text: str, expected: str) -> None:
    """Each alone could stand."""
    (mistake,) = mistakes(conf(text))
    assert expected in mistake


def test_a_password_in_a_url_is_not_repeated(conf: Conf) -> None:
    """Nor is a line that makes no sense, nor the value of an unknown setting: each may be a secret."""
    text = "[s3]\nendpoint_url = https://me:hunter2@store.example\n"
    text += "hunter2\n[aws]\naws_secret_access_key = hunter2\nhunter = hunter2"
    found = mistakes(conf(text))
    assert len(found) == 4
    assert not any("hunter2" in mistake for mistake in found)
    assert "put keys into a file of their own" in found[2]


def test_percent_signs_mean_themselves(conf: Conf) -> None:
    """There is no interpolation."""
    assert load(conf("[aws]\nprofile = 100%(x)s %%")).aws.profile == "100%(x)s %%"


@pytest.mark.parametrize("written", ["$CREDENTIALS_DIRECTORY/aws", "${CREDENTIALS_DIRECTORY}/aws", "%d/aws"])
def test_credentials_may_come_from_systemd(conf: Conf, tmp_path: Path, written: str) -> None:
    """LoadCredential= puts them into a directory that is known at run time alone."""
    (tmp_path / "aws").touch()
    directory = conf(f"[aws]\ncredentials_file = {written}")
    assert load(directory, CREDENTIALS_DIRECTORY=str(tmp_path)).aws.credentials_file == tmp_path / "aws"
    (mistake,) = mistakes(directory)
    assert "needs CREDENTIALS_DIRECTORY, which is not set" in mistake


def test_share_none_reuses_nobodys_contents(conf: Conf) -> None:
    """The word, since an empty value is a mistake."""
    assert load(conf("[content]\nshare = none")).content.share == ()


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """And how to name another place."""
    (mistake,) = mistakes(tmp_path)
    assert "does not exist" in mistake
    assert "--config-dir" in mistake


def test_what_cannot_be_read_says_why(conf: Conf, tmp_path: Path) -> None:
    """A directory in its place; bytes that are no text, with their line."""
    assert mistakes(conf(b"[s3]\n# caf\xe9\n")) == ["line 2: not UTF-8"]
    (tmp_path / "conf").unlink()
    (tmp_path / "conf").mkdir()
    assert mistakes(tmp_path) == ["cannot be read: Is a directory"]


@pytest.mark.parametrize("mode", [0o660, 0o606, 0o666])
def test_a_file_that_others_may_write_is_refused(conf: Conf, mode: int) -> None:
    """Whoever writes it decides where backups go."""
    directory = conf(mode=mode)
    assert mistakes(directory) == [f"can be written by others than its owner: chmod go-w {directory}/conf"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_a_stranger_is_refused(conf: Conf) -> None:
    """Root's and our own are taken."""
    directory = conf()
    os.chown(directory / "conf", 12345, 0)
    assert mistakes(directory) == ["belongs to user 12345: it must be root's, or the user's who runs this"]


def test_a_byte_order_mark_and_windows_line_ends_are_fine(conf: Conf) -> None:
    """Some editors leave them."""
    assert load(conf(b"\xef\xbb\xbf[s3]\r\nbucket = my-backups\r\n")).s3.bucket == "my-backups"


def test_what_the_file_gives_is_known(conf: Conf) -> None:
    """For check-config, which tells it from the defaults."""
    assert read_config(conf("[s3]\nbucket = abc\n[run]\nuploads = 16"), {}).given == {
        ("s3", "bucket"),
        ("run", "uploads"),
    }


def test_a_machine_whose_name_cannot_be_used_must_be_given_one(conf: Conf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name becomes part of keys in the bucket."""
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((uname[0], "my machine", *uname[2:])))
    (mistake,) = mistakes(conf())
    assert "'my machine' cannot be used: set one" in mistake
    assert load(conf("[content]\nhost = mine")).content.host == "mine"


def test_the_directory_comes_from_the_option_then_the_environment_then_etc(tmp_path: Path) -> None:
    """In this order, and always absolute."""
    named = {"SYSBACKUP_CONFIG_DIR": "/from/environment"}
    assert config_directory(tmp_path, named) == tmp_path
    assert config_directory(None, named) == Path("/from/environment")
    assert config_directory(None, {}) == Path("/etc/backup")
    assert config_directory(Path("here"), {}).is_absolute()


@pytest.mark.parametrize(
    ("written", "meant", "shown"),
    [
        ("9797", ("127.0.0.1", 9797), "127.0.0.1:9797"),
        ("0.0.0.0:9797", ("0.0.0.0", 9797), "0.0.0.0:9797"),
        ("[::1]:9797", ("::1", 9797), "[::1]:9797"),
    ],
)
def test_metrics_listen_on_loopback_unless_told_otherwise(
    conf: Conf, written: str, meant: tuple[str, int], shown: str
) -> None:
    """A port alone is not open to the network."""
    listen = load(conf(f"[metrics]\nlisten = {written}")).metrics.listen
    assert listen == meant
    (setting,) = (s for s in SETTINGS if s.label == "[metrics] listen")
    assert setting.kind.text(listen) == shown


@pytest.mark.parametrize("schedule", ["15 2 * * *", "*/10 8-18 * * MON-FRI", "0 3 1,15 * *", "0 4 L * *"])
def test_schedules_are_cron_expressions(conf: Conf, schedule: str) -> None:
    """In a time zone that has a name."""
    daemon = load(conf(f"[daemon]\nschedule = {schedule}\ntime_zone = Europe/Berlin")).daemon
    assert (daemon.schedule, daemon.time_zone) == (schedule, "Europe/Berlin")


def test_the_cache_comes_from_systemd_then_the_environment_then_the_users_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """systemd may name several directories: the first is ours."""
    both = {"CACHE_DIRECTORY": "/var/cache/a:/var/cache/b", "SYSBACKUP_CACHE_DIR": "/mine"}
    assert cache_directory(both) == Path("/var/cache/a")
    assert cache_directory({"SYSBACKUP_CACHE_DIR": "/mine"}) == Path("/mine")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cache_directory({"XDG_CACHE_HOME": "/x"}) == Path("/var/cache/sysbackup")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cache_directory({"XDG_CACHE_HOME": "/x"}) == Path("/x/sysbackup")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_directory({}) == Path("/home/me/.cache/sysbackup")


def test_state_and_runtime_have_places_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same rules; a user without XDG_RUNTIME_DIR, in a cron job for instance, has a folder of the state's."""
    assert state_directory({"STATE_DIRECTORY": "/a:/b", "SYSBACKUP_STATE_DIR": "/mine"}) == Path("/a")
    assert runtime_directory({"SYSBACKUP_RUNTIME_DIR": "/mine"}) == Path("/mine")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_directory({"XDG_STATE_HOME": "/x"}) == Path("/var/lib/sysbackup")
    assert runtime_directory({"XDG_RUNTIME_DIR": "/x"}) == Path("/run/sysbackup")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/me")
    assert state_directory({}) == Path("/home/me/.local/state/sysbackup")
    assert runtime_directory({"XDG_RUNTIME_DIR": "/run/user/1000"}) == Path("/run/user/1000/sysbackup")
    assert runtime_directory({}) == Path("/home/me/.local/state/sysbackup/run")


def test_large_values_are_exact(conf: Conf) -> None:
    """Sizes are whole numbers, not floats."""
    limit = load(conf("[content]\nstream_pack_size = 1 GiB")).content.stream_pack_size
    assert limit == GIB
    assert isinstance(limit, int)
