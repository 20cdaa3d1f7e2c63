"""What is said of a configuration's credentials before anything is sent."""

import re
from pathlib import Path

import pytest

from sysbackup.aws.sessions import open_session, session_name
from sysbackup.config.sections import Aws, Config
from sysbackup.errors import ConfigError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own AWS settings."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))


def config(tmp_path: Path, **aws: object) -> Config:
    settings = Aws(**aws)  # type: ignore[arg-type]  # any mix of them
    return Config(directory=tmp_path, cache=tmp_path, state=tmp_path, runtime=tmp_path, aws=settings)


def credentials(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "credentials"
    path.write_text(text)
    return path


GOOD = "[default]\naws_access_key_id = AKIA\naws_secret_access_key = hidden-away\n"


def test_a_missing_credentials_file_is_named_with_its_setting(tmp_path: Path) -> None:
    """File and setting both, so that either can be mended."""
    with pytest.raises(ConfigError, match=rf"{tmp_path}/nowhere.*credentials_file"):
        open_session(config(tmp_path, credentials_file=tmp_path / "nowhere"))


def test_a_directory_is_no_credentials_file(tmp_path: Path) -> None:
    """Nor is anything else that cannot be read."""
    with pytest.raises(ConfigError, match="credentials_file, cannot be read"):
        open_session(config(tmp_path, credentials_file=tmp_path))


def test_a_missing_profile_is_named_with_those_there_are(tmp_path: Path) -> None:
    """And with what asked for it: a setting, the environment, or nothing."""
    path = credentials(tmp_path, GOOD + "[other]\naws_access_key_id = x\naws_secret_access_key = y\n")
    with pytest.raises(ConfigError, match=r"no profile 'backup' \(which \[aws\] profile names\).*default, other"):
        open_session(config(tmp_path, credentials_file=path, profile="backup"))


def test_the_environment_is_named_where_it_chose_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_PROFILE left over from something else is hard to find otherwise."""
    monkeypatch.setenv("AWS_PROFILE", "leftover")
    with pytest.raises(ConfigError, match=r"'leftover'.*AWS_PROFILE"):
        open_session(config(tmp_path, credentials_file=credentials(tmp_path, GOOD)))
    with pytest.raises(ConfigError, match=r"'leftover'.*AWS_PROFILE"):
        open_session(config(tmp_path))


def test_a_profile_without_credentials_is_no_profile(tmp_path: Path) -> None:
    """The machine's role must not step in for it silently."""
    with pytest.raises(ConfigError, match="holds no credentials"):
        open_session(config(tmp_path, credentials_file=credentials(tmp_path, "[default]\nregion = eu-central-1\n")))


def test_a_file_of_another_form_is_refused_without_showing_it(tmp_path: Path) -> None:
    """It may hold secrets all the same."""
    path = credentials(tmp_path, "AKIA hidden-away\n")
    with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
        open_session(config(tmp_path, credentials_file=path))
    assert "hidden-away" not in str(caught.value)


def test_a_role_needs_a_credentials_file(tmp_path: Path) -> None:
    """As the specification has it; the error says how a profile does the same."""
    with pytest.raises(ConfigError, match=r"role_arn needs credentials_file.*source_profile"):
        open_session(config(tmp_path, role_arn="arn:aws:iam::123456789012:role/x"))


def test_an_unknown_profile_of_the_usual_chain_is_named_with_its_files(tmp_path: Path) -> None:
    """Both files that were searched."""
    with pytest.raises(ConfigError, match=r"'backup', named by \[aws\] profile.*aws-config.*aws-credentials"):
        open_session(config(tmp_path, profile="backup"))


@pytest.mark.parametrize(
    ("user", "host", "name"),
    [
        ("root", "db1.example.org", "root@db1.example.org"),
        ("bäckup", "host name", "b-ckup@host-name"),
        ("uid-1000", "h" * 100, "uid-1000@" + "h" * 55),
        ("", "", "-@-"),
    ],
)
def test_session_names_are_what_sts_takes(user: str, host: str, name: str) -> None:
    """2 to 64 of `[\\w+=,.@-]`, as readable as that allows."""
    assert session_name(user, host) == name
    assert re.fullmatch(r"[A-Za-z0-9_+=,.@-]{2,64}", name)
