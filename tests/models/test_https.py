"""Fetching over HTTPS from a real server: taken up where it broke off, ending with the right bytes or not at all."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgerun.errors import ConfigError, DeviceError, ModelError
from edgerun.models.https import check_url, download, shown_url
from edgerun.models.install import install
from edgerun.models.store import Limits, Store
from tests.models.stores import KEY, bundle, contents_of, put, strict, zipped
from tests.models.web import Site, serving

CONTENT = os.urandom(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path) as site:
        site.files["/m.zip"] = CONTENT
        yield site


@pytest.fixture
def fetch(site: Site, tmp_path: Path) -> Callable[..., Path]:
    (tmp_path / "partial").mkdir()
    numbers = itertools.count()

    def fetch(path: str = "/m.zip", **how: object) -> Path:
        words = {"ca_file": site.certificate, "pause": lambda seconds: None, **how}
        into = tmp_path / f"got-{next(numbers)}"
        return download(site.url(path), tmp_path / "partial", into, **words)  # type: ignore[arg-type]

    return fetch


def test_a_file_with_its_hash(site: Site, fetch: Callable[..., Path]) -> None:
    told: list[tuple[int, int | None]] = []
    assert fetch(sha256=SHA256.upper(), progress=lambda *at: told.append(at)).read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert site.asked == [("/m.zip", None)]


def test_it_goes_on_where_it_broke_off(site: Site, fetch: Callable[..., Path]) -> None:
    site.cut = [100_000, 200_000]
    assert fetch(sha256=SHA256).read_bytes() == CONTENT
    assert site.asked == [("/m.zip", None), ("/m.zip", "bytes=100000-"), ("/m.zip", "bytes=300000-")]


def test_another_process_goes_on_where_one_was_killed(site: Site, fetch: Callable[..., Path], tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def killed(done: int, total: int | None) -> None:
        raise Killed

    with pytest.raises(Killed):
        fetch(progress=killed)
    (part,) = (tmp_path / "partial").glob("*.part")
    there = part.stat().st_size
    assert 0 < there < len(CONTENT)
    assert fetch(sha256=SHA256).read_bytes() == CONTENT
    assert site.asked[-1] == ("/m.zip", f"bytes={there}-")


def test_a_file_that_changed_meanwhile_is_fetched_anew(site: Site, fetch: Callable[..., Path]) -> None:
    site.cut = [100_000]
    site.statuses["/m.zip"] = []

    def change(done: int, total: int | None) -> None:
        site.files["/m.zip"] = CONTENT[::-1]

    assert fetch(progress=change).read_bytes() == CONTENT[::-1]
    assert site.asked == [("/m.zip", None), ("/m.zip", "bytes=100000-")]


def test_a_server_without_validators_starts_over(site: Site, fetch: Callable[..., Path]) -> None:
    site.validators = False
    site.cut = [100_000]
    assert fetch(sha256=SHA256).read_bytes() == CONTENT
    assert site.asked == [("/m.zip", None)] * 2


def test_a_server_that_does_not_say_how_much(site: Site, fetch: Callable[..., Path]) -> None:
    site.sizes = False
    assert fetch(sha256=SHA256).read_bytes() == CONTENT
    with pytest.raises(ModelError, match="too large"):
        fetch(limit=1000)


def test_what_is_there_is_more_than_the_file_has(site: Site, fetch: Callable[..., Path], tmp_path: Path) -> None:
    site.cut = [100_000] * 6
    with pytest.raises(DeviceError, match="broke off 6 times"):
        fetch()
    (part,) = (tmp_path / "partial").glob("*.part")
    part.write_bytes(CONTENT + b"more")
    site.statuses["/m.zip"] = [416]
    assert fetch(sha256=SHA256).read_bytes() == CONTENT


def test_busy_servers_are_asked_again_and_missing_files_are_not(
    site: Site, fetch: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    waited: list[float] = []
    site.statuses["/m.zip"] = [503, 429, 500]
    assert fetch(pause=waited.append).read_bytes() == CONTENT
    assert waited == [1, 2, 4]
    assert "429" in caplog.messages[1]
    assert caplog.messages[1].endswith("; trying again in 2 s")
    with pytest.raises(DeviceError, match=r"cannot be fetched; got 404"):
        fetch("/none.zip?token=secret")
    assert len(site.asked) == 5


def test_the_wrong_hash(fetch: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=f"not the file that was meant; expected sha256 {'0' * 64}; got sha256 {SHA256}"
    ):
        fetch(sha256="0" * 64)
    assert not list((tmp_path / "partial").iterdir())


def test_too_large_is_refused_before_it_is_fetched(fetch: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"too large; expected ≤ 1000 bytes; got 700000"):
        fetch(limit=1000)
    assert not list((tmp_path / "partial").iterdir())


def test_a_server_with_another_certificate(site: Site, fetch: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"(?i)self.signed certificate"):
        fetch(ca_file=None)
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ConfigError, match="not a file of certificates"):
        fetch(ca_file=tmp_path / "empty.pem")
    assert site.asked == []


def test_redirects_lead_to_https_only(site: Site, fetch: Callable[..., Path]) -> None:
    site.redirects = {"/a": site.url("/m.zip"), "/b": "http://127.0.0.1/m.zip", "/c": "file:///etc/passwd", "/d": "/d"}
    assert fetch("/a").read_bytes() == CONTENT
    for path, said in (("/b", "not https"), ("/c", "not allowed"), ("/d", "infinite loop")):
        with pytest.raises(DeviceError, match=said):
            fetch(path)


def test_a_login_of_netrc_stays_with_its_host(
    site: Site, fetch: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password planted-secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    site.redirects = {"/a": site.url("/m.zip").replace("127.0.0.1", "localhost")}
    assert fetch("/a").read_bytes() == CONTENT
    assert ["Authorization" in head for head in site.heads] == [True, False]
    with pytest.raises(DeviceError) as caught:
        fetch("/none")
    assert "planted-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://a/b", "https://", "https:///x", "https://a:0/", "https://a:99999/", "https://a/b c", "https://a/\n", "x"],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="not an address"):
        check_url(url)


def test_no_secret_of_an_address_is_shown() -> None:
    assert shown_url("https://u:p@host:1/m.zip?token=t#f") == "https://host:1/m.zip"
    with pytest.raises(ConfigError) as caught:
        check_url("https://user:planted@host/m.zip?token=planted")
    assert "planted" not in str(caught.value)


def test_a_signed_bundle_comes_in_and_an_unsigned_one_does_not(site: Site, tmp_path: Path) -> None:
    store, policy = Store.open(tmp_path / "store"), strict(tmp_path / "trust")
    site.files["/net.zip"] = zipped(tmp_path, "1", KEY).read_bytes()
    site.files["/bare.zip"] = zipped(tmp_path, "2").read_bytes()
    one = install(store, site.url("/net.zip?token=planted"), policy, ca_file=site.certificate)
    assert (one.version, one.remote, one.trusted, one.signer) == ("1", True, "signed", KEY.public.id)
    assert one.source == site.url("/net.zip")
    assert "planted" not in (tmp_path / "store" / "net" / "state.json").read_text()
    with pytest.raises(ModelError, match="not signed, and models from elsewhere must be"):
        install(store, site.url("/bare.zip"), policy, ca_file=site.certificate)
    assert store.record("net").latest() == "1"
    assert not list((tmp_path / "store" / ".partial").iterdir())
    assert not [path for path in contents_of(tmp_path / "store") if path.startswith(".staging/")]


def test_no_room_is_seen_before_it_is_fetched(site: Site, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", limits=Limits(max_bytes=100_000))
    with pytest.raises(DeviceError, match="would outgrow its budget"):
        install(store, site.url("/m.zip"), strict(tmp_path / "trust"), ca_file=site.certificate)
    assert not list((tmp_path / "store" / ".partial").iterdir())


@pytest.mark.parametrize(
    "source", ["http://a/b.zip", "ftp://a/b.zip", "file:///etc/passwd", "s3://a/b", "ssh://u:p@h/x"]
)
def test_what_is_no_source(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a source of models") as caught:
        install(Store.open(tmp_path / "store"), source, strict(tmp_path / "trust"))
    assert "u:p" not in str(caught.value)


def test_two_that_fetch_the_same_do_not_disturb_each_other(fetch: Callable[..., Path], tmp_path: Path) -> None:
    together = threading.Barrier(2)

    def one(number: int) -> bytes:
        together.wait(30)
        return fetch(f"/m.zip?{number // 2}", sha256=SHA256).read_bytes()

    with ThreadPoolExecutor(2) as pool:
        for turn in range(0, 20, 2):
            assert list(pool.map(one, (turn, turn + 1))) == [CONTENT] * 2
    assert not list((tmp_path / "partial").iterdir())


def test_what_is_being_fetched_is_not_pruned(site: Site, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    put(store, bundle(tmp_path, "1"))
    (store.partial() / "left.part").touch()
    (store.partial() / "left.json").touch()

    def prune(done: int, total: int | None) -> None:
        store.prune()

    path = download(site.url("/m.zip"), store.partial(), tmp_path / "got", ca_file=site.certificate, progress=prune)
    assert path.read_bytes() == CONTENT
    assert not list(store.partial().iterdir())
