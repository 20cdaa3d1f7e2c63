"""The store behind TLS, with a certificate of an authority that only `[s3] ca_bundle` names."""

import asyncio
import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sysbackup.api.connecting import open_store
from sysbackup.aws.sessions import s3_client
from sysbackup.config.loading import load_config
from sysbackup.errors import ConfigError, StoreUnavailable
from tests.support.asking import MIN_PART, all_of, content, lock
from tests.support.proxy import proxying
from tests.support.servers import OnServer, Server


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate of its own authority, and a server that shows it."""

    certificate: Path
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sysbackup tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    return Tls(certificate, context)


def test_everything_goes_through_tls(served: OnServer, tls: Tls) -> None:
    """Puts, parts, locks, renewals, listings and reads; bodies go out plain, with their length, and never in chunks."""

    async def body() -> None:
        whole = os.urandom(MIN_PART) + b"end"
        with proxying(served.server.endpoint, tls.context) as proxy:
            config = served.server.config(served.name, endpoint_url=proxy.url)
            config = msgspec.structs.replace(config, s3=msgspec.structs.replace(config.s3, ca_bundle=tls.certificate))
            async with open_store(config) as store:
                put = await store.put("put", whole, lock(2))
                async with store.upload("parts", lock(2)) as upload, asyncio.TaskGroup() as group:
                    group.create_task(upload.part(1, whole[:MIN_PART]))
                    group.create_task(upload.part(2, whole[MIN_PART:]))
                async with store.upload("parts", lock(2)) as upload:
                    await upload.part(1, whole[:MIN_PART])
                    await upload.part(2, whole[MIN_PART:])
                    parts = await upload.finish()
                for stored in (put, parts):
                    assert await content(store, stored.key, stored.version) == whole
                    assert await content(store, stored.key, stored.version, 5, 1000) == whole[5:1005]
                    kept = await store.lock_of(stored.key, stored.version)
                    assert kept is not None
                    assert kept.covers(lock(1.99))
                    assert (await store.renew(stored.key, stored.version, lock(3))).covers(lock(2.99))
                assert [v.key for v in await all_of(store.versions(""))] == ["parts", "put"]
        assert await served.unfinished() == 0
        sent = [head for head in proxy.heads if re.match(r"PUT ([^?]*|.*partNumber=.*) ", head)]
        assert len(sent) == 5
        for head in sent:
            assert re.search(r"(?im)^content-length: [1-9]\d*\r$", head)
            assert re.search(r"(?im)^x-amz-content-sha256: [0-9a-f]{64}\r$", head)
            assert not re.search(r"(?im)^(expect|x-amz-trailer|content-encoding|transfer-encoding):", head)
            assert "aws-chunked" not in head

    uvloop.run(body())


def test_an_authority_that_nobody_named_is_not_trusted(moto_bucket: OnServer, tls: Tls) -> None:
    """At once, without waiting for `give_up_after`, and the error names the setting."""

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint, tls.context) as proxy:
            async with moto_bucket.store(endpoint_url=proxy.url, give_up_after=600) as store:
                with pytest.raises(StoreUnavailable, match=r"not trusted.*\[s3\] ca_bundle"):
                    await store.check()
            assert not proxy.heads

    uvloop.run(body())


def test_a_bundle_that_is_gone_is_a_mistake_of_the_configuration(
    moto: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a store that is waited for: neither one of ours, nor the environment's."""
    config = moto.config("b")
    gone = tmp_path / "gone.pem"

    async def body() -> None:
        named = msgspec.structs.replace(config, s3=msgspec.structs.replace(config.s3, ca_bundle=gone))
        with pytest.raises(ConfigError, match=rf"\[s3\] ca_bundle = {gone} names no file"):
            async with s3_client(named):
                raise AssertionError("a client was opened")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(gone))
        with pytest.raises(ConfigError, match=rf"AWS_CA_BUNDLE.* = {gone} names no file"):
            async with s3_client(config):
                raise AssertionError("a client was opened")

    uvloop.run(body())


def test_a_bundle_may_come_from_systemd(tls: Tls, tmp_path: Path) -> None:
    """As a credentials file may: %d is where it puts them."""
    (tmp_path / "conf").write_text("[s3]\nca_bundle = %d/certificate.pem\n")
    (tmp_path / "conf").chmod(0o600)
    found = load_config(tmp_path, {"CREDENTIALS_DIRECTORY": str(tls.certificate.parent)})
    assert found.s3.ca_bundle == tls.certificate
