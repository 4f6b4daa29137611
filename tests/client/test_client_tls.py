"""TLS, ended in front of a real Triton as a proxy would."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Certificate
from relay import Relay, running
from triton_for_client import Addresses, received

from songstarter_client import AsyncClient, Client, InvalidRequest, NoServer, Unavailable, UntrustedServer
from songstarter_client.address import parse_address

COMMAND = (sys.executable, "-m", "songstarter.cli", "generate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.made(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """For the same host, signed by somebody else."""
    return Certificate.made(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(params=["grpcs", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plain(scheme: str, triton: Addresses) -> str:
    """The server itself, which speaks no TLS."""
    return str(getattr(triton, scheme.removesuffix("s")))


@pytest.fixture
def secure(scheme: str, plain: str, certificate: Certificate) -> Iterator[str]:
    """The server behind TLS."""
    with running(Relay(parse_address(plain).port, certificate.context)) as port:
        yield f"{scheme}://127.0.0.1:{port}"


@pytest.mark.triton
class TestBehindTls:
    def test_songs_and_streams_come(self, secure: str, certificate: Certificate) -> None:
        with Client(secure, timeout=20, ca_file=certificate.file) as client:
            client.wait_ready(timeout=5)
            song = client.generate("behind TLS", num_outputs=1, seed=3)
            assert received(song.files[0])["inputs"]["prompt"][2] == "behind TLS"
            assert [chunk.audio for chunk in client.stream("behind TLS")] == [b"RIFF", b"\x00\xff\n\n", b"end"]

    def test_they_come_to_the_asynchronous_client(self, secure: str, certificate: Certificate) -> None:
        async def ask() -> tuple[int, list[bytes]]:
            async with AsyncClient(secure, timeout=20, ca_file=str(certificate.file)) as client:
                songs = await asyncio.gather(*(client.generate("several", seed=seed) for seed in range(4)))
                return sum(song.seed for song in songs), [chunk.audio async for chunk in client.stream("one")]

        assert asyncio.run(ask()) == (6, [b"RIFF", b"\x00\xff\n\n", b"end"])

    def test_a_server_that_nobody_vouches_for_gets_no_request(self, secure: str, stranger: Certificate) -> None:
        for ca_file in (None, stranger.file):
            with Client(secure, timeout=20, retries=3, ca_file=ca_file) as client:
                for ask in (client.generate, client.ready, client.wait_ready, lambda c=client: next(c.stream("x"))):
                    with pytest.raises(UntrustedServer, match=r"^the certificate of the server at 127.0.0.1:\d+ is"):
                        ask()

    def test_nor_does_one_with_another_hosts_certificate(self, scheme: str, plain: str, tmp_path: Path) -> None:
        other = Certificate.made(tmp_path, of="DNS:elsewhere.example")
        with running(Relay(parse_address(plain).port, other.context)) as port:
            address = f"{scheme}://127.0.0.1:{port}"
            with Client(address, timeout=20, ca_file=other.file) as client, pytest.raises(UntrustedServer):
                client.generate("x")

    def test_who_speaks_it_to_a_plain_server_hears_so(self, plain: str, scheme: str, certificate: Certificate) -> None:
        address = f"{scheme}://{parse_address(plain)}"
        with Client(address, timeout=20, ca_file=certificate.file) as client:
            for ask in (client.generate, lambda: next(client.stream("x"))):
                with pytest.raises(NoServer, match=rf"^nothing that speaks TLS answers at .*; is it {scheme[:-1]}:"):
                    ask()

    def test_who_does_not_speak_it_gets_no_song(self, secure: str, scheme: str) -> None:
        address = secure.replace(scheme, scheme.removesuffix("s"))
        with Client(address, timeout=20) as client, pytest.raises(Unavailable):
            client.generate("x")

    def test_the_command_takes_the_file_by_a_flag_or_from_the_environment(
        self, secure: str, certificate: Certificate, tmp_path: Path
    ) -> None:
        def run(*more: str, **environment: str) -> tuple[int, str]:
            command = [*COMMAND, "x", "--url", secure, "-o", str(tmp_path), *more]
            environment = os.environ | environment
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
            return done.returncode, done.stderr

        assert run("--ca-file", str(certificate.file)) == (0, "")
        assert run("--stream", SONGSTARTER_CA_FILE=str(certificate.file)) == (0, "")
        code, said = run()
        assert (code, said.count("\n")) == (1, 1)
        assert said.startswith("songstarter: the certificate of the server at")


def test_where_no_port_is_given_it_is_that_of_tls(scheme: str) -> None:
    assert str(parse_address(f"{scheme}://songs.example")) == "songs.example:443"
    assert parse_address(f"{scheme}://songs.example:8443").port == 8443
    assert parse_address(f"{scheme}://songs.example", {"grpcs": "grpc", "https": "http"}[scheme]).secure  # type: ignore[arg-type]


@pytest.mark.parametrize(("content", "found"), [(None, "No such file or directory"), ("no PEM", "no certificate")])
def test_a_file_without_certificates_is_refused(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("authorities")
    if content:
        file.write_text(content)
    with pytest.raises(InvalidRequest, match=rf"^ca_file: found 'authorities' \({found}\), allowed is a readable"):
        Client(f"{scheme}://songs.example", ca_file=file)
