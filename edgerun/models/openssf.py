"""OpenSSF model signatures: Sigstore bundles as `model_signing sign key` makes them, verified with a pinned key.

Keys are the `.pem` files of the trust folder (ECDSA: the format knows no Ed25519). Identities of a public Sigstore
instance are not taken: a device would need its network, and whoever has an account there could sign.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from edgerun.errors import MissingError, ModelError
from edgerun.models.verify import MANIFEST, OPENSSF, SIGNATURE


def keys_in(folder: Path) -> list[Path]:
    """The public keys for such bundles."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".pem")
    except OSError:
        return []


def check_openssf(folder: Path, trust: Path, where: object) -> str:
    """The name of the key in `trust` that signed the bundle unpacked in `folder`, its manifest among what is signed.

    Raises `ModelError`, `MissingError`.
    """
    try:
        from model_signing import hashing, verifying
    except ImportError as error:
        raise MissingError(
            "an OpenSSF signature needs a library that is not installed",
            where=where,
            expected="model-signing",
            got=error,
            remedy="pip install 'edgerun[model-signing]'",
        ) from error
    signature = folder / OPENSSF
    reasons = []
    for key in keys_in(trust):
        hashes = hashing.Config().set_ignored_paths(paths=[OPENSSF, SIGNATURE], ignore_git_paths=False)
        checker = verifying.Config().use_elliptic_key_verifier(public_key=key).set_hashing_config(hashes)
        try:
            checker.verify(folder, signature)
        except Exception as error:  # noqa: BLE001  a foreign library before hostile bytes: whatever it raises is a no
            reasons.append(f"{key.name}: {str(error)[:200] or type(error).__name__}")
            continue
        if not _covers(signature, hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()):
            reasons.append(f"{key.name}: it signs everything but the manifest")
            continue
        return f"openssf:{key.name}"
    raise ModelError(
        "not signed by a key that is trusted here",
        where=f"{where}/{OPENSSF}",
        expected=f"the signature of one of {len(keys_in(trust))} .pem keys in {trust}",
        got="; ".join(reasons) or "no key to try",
        remedy="check where it comes from; a key that is right is trusted by putting its .pem file there",
    )


def _covers(signature: Path, manifest_sha256: str) -> bool:
    """Whether the statement, verified by now, names the manifest's hash: a signer may have left paths out."""
    envelope: Any = json.loads(signature.read_bytes())["dsseEnvelope"]
    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    return any(
        one.get("name") == MANIFEST and one.get("algorithm") == "sha256" and one.get("digest") == manifest_sha256
        for one in predicate["resources"]
    )
