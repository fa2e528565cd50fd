"""`edgerun models sign` and what a device says to it; bundles in the format of OpenSSF."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from edgerun.errors import ConfigError, ModelError
from edgerun.models.install import Origin, examine, stage
from edgerun.models.signing import sign_path
from edgerun.models.store import Store
from edgerun.models.verify import Policy
from edgerun.security.signing import encode, sign
from tests.models.bundles import MODEL
from tests.models.stores import KEY, NOW, OTHER, bundle, strict, trusting, zipped


@pytest.mark.parametrize("make", [bundle, zipped])
def test_what_is_signed_is_trusted(make: object, tmp_path: Path) -> None:
    path = make(tmp_path, "1")  # type: ignore[operator]
    policy = strict(tmp_path / "trust")
    sign_path(path, OTHER)
    with pytest.raises(ModelError, match="is not known here"):
        examine(path, policy)
    sign_path(path, KEY, more=True)
    assert examine(path, policy) == f"signed {KEY.public.id}"
    assert examine(path, Policy(NOW, trusting(tmp_path / "t2", OTHER))) == f"signed {OTHER.public.id}"
    sign_path(path, OTHER)
    with pytest.raises(ModelError, match="is not known here"):
        examine(path, policy)


def test_a_zip_is_written_anew_with_what_was_in_it(tmp_path: Path) -> None:
    path = zipped(tmp_path, "1")
    with zipfile.ZipFile(path) as archive:
        before = {name: archive.read(name) for name in archive.namelist()}
    assert sign_path(path, KEY) == path
    with zipfile.ZipFile(path) as archive:
        after = {name: archive.read(name) for name in archive.namelist()}
    assert after.pop("manifest.sig") == encode([sign(before["manifest.json"], KEY)])
    assert after == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_what_is_not_whole_is_not_signed(tmp_path: Path) -> None:
    path = bundle(tmp_path, "1")
    (path / "labels.txt").write_bytes(b"other")
    with pytest.raises(ModelError, match="not the one its manifest lists"):
        sign_path(path, KEY)
    (path / "extra").touch()
    with pytest.raises(ModelError, match="does not list"):
        sign_path(path, KEY)
    assert not (path / "manifest.sig").exists()


def test_an_expiry_is_written_first(tmp_path: Path) -> None:
    path = bundle(tmp_path, "1")
    sign_path(path, KEY, expires="2028-01-01")
    assert json.loads((path / "manifest.json").read_bytes())["expires"] == "2028-01-01T00:00:00Z"
    assert examine(path, strict(tmp_path / "trust")) == f"signed {KEY.public.id}"
    with pytest.raises(ModelError, match="has expired"):
        examine(path, strict(tmp_path / "trust", now=1_900_000_000.0))
    with pytest.raises(ConfigError, match="not a time"):
        sign_path(path, KEY, expires="soon")
    with pytest.raises(ConfigError, match="only a bundle's folder"):
        sign_path(zipped(tmp_path, "2"), KEY, expires="2028-01-01")


def test_any_small_file_is_signed_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "next.pub"
    path.write_text(OTHER.public.line + "\n")
    assert sign_path(path, KEY) == tmp_path / "next.pub.sig"
    trust = trusting(tmp_path / "trust", KEY).rotate(path.read_bytes(), (tmp_path / "next.pub.sig").read_bytes(), NOW)
    assert {one.key.id for one in trust.keys} == {KEY.public.id, OTHER.public.id}
    with pytest.raises(ConfigError, match="cannot be read"):
        sign_path(tmp_path / "none", KEY)
    path.write_bytes(bytes(2 << 20))
    with pytest.raises(ModelError, match="too large"):
        sign_path(path, KEY)


class OpenSsf:
    """A signer's folder and a device that trusts `signer.pem`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(folder / "store")
        self.policy = strict(folder / "trust")
        for name in ("signer", "stranger"):
            self.write_key(name)
        (folder / "trust" / "signer.pem").write_bytes((folder / "signer.pub.pem").read_bytes())

    def write_key(self, name: str) -> None:
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        plain = form.PrivateFormat.PKCS8, form.NoEncryption()
        (self.folder / f"{name}.pem").write_bytes(key.private_bytes(form.Encoding.PEM, *plain))
        public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        (self.folder / f"{name}.pub.pem").write_bytes(public)

    def sign(self, path: Path, name: str = "signer", ignored: tuple[str, ...] = ()) -> None:
        """As `model_signing sign key` does."""
        from model_signing import hashing, signing

        hashes = hashing.Config().set_ignored_paths(paths=["model.sig", *ignored], ignore_git_paths=False)
        made = signing.Config().use_elliptic_key_signer(private_key=self.folder / f"{name}.pem")
        made.set_hashing_config(hashes).sign(path, path / "model.sig")

    def offer(self, path: Path) -> str:
        """What the device says: the signer, or why not."""
        try:
            with stage(self.store, path, Origin("https://models.example/x.zip", True), self.policy) as staged:
                assert staged.installed.trusted == "openssf"
                return staged.installed.signer or ""
        except ModelError as error:
            return str(error)


@pytest.fixture
def openssf(tmp_path: Path) -> OpenSsf:
    pytest.importorskip("model_signing", reason="model-signing is not installed: pip install 'edgerun[model-signing]'")
    return OpenSsf(tmp_path)


def test_a_bundle_signed_with_model_signing(openssf: OpenSsf, tmp_path: Path) -> None:
    path = bundle(tmp_path, "1")
    openssf.sign(path)
    assert openssf.offer(path) == "openssf:signer.pem"
    assert examine(path, openssf.policy) == "signed openssf:signer.pem"
    openssf.sign(path, "stranger")
    assert "not signed by a key that is trusted here" in openssf.offer(path)


@pytest.mark.parametrize("name", ["manifest.json", "labels.txt", "model.onnx", "model.sig"])
def test_a_byte_changed_in_such_a_bundle(openssf: OpenSsf, tmp_path: Path, name: str) -> None:
    path = bundle(tmp_path, "1")
    openssf.sign(path)
    right = (path / name).read_bytes()
    for place in {*range(0, len(right), max(1, len(right) // 40)), len(right) - 1}:
        (path / name).write_bytes(right[:place] + bytes([right[place] ^ 1]) + right[place + 1 :])
        said = openssf.offer(path)
        if said == "openssf:signer.pem":  # a byte of the envelope that is not signed, such as the media type's
            assert name == "model.sig"
            assert (path / "manifest.json").read_bytes()
        else:
            assert "signed" in said or "lists" in said
    assert openssf.store.names() == []


def test_a_signature_that_leaves_the_manifest_or_files_out(openssf: OpenSsf, tmp_path: Path) -> None:
    path = bundle(tmp_path, "1")
    openssf.sign(path, ignored=("manifest.json",))
    assert "not signed by a key that is trusted here" in openssf.offer(path)
    openssf.sign(path)
    (path / "extra").write_bytes(MODEL)
    assert "not signed by a key that is trusted here" in openssf.offer(path)
    (path / "extra").unlink()
    (path / "model.sig").write_bytes(b"{}")
    assert "not signed by a key that is trusted here" in openssf.offer(path)
    (path / "model.sig").write_bytes(bytes(5 << 20))
    assert "too large" in openssf.offer(path)
