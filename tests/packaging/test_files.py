"""What packages and image are made of belongs together; that they work, tools/build-deb and build-arm64 show."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgerun.cli import flags
from edgerun.config import build

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"


def locked() -> dict[str, str]:
    text = (DEPLOY / "requirements-image.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", text, re.M))


def test_every_locked_package_has_its_hashes() -> None:
    text = (DEPLOY / "requirements-image.txt").read_text()
    for block in re.split(r"\n(?=[a-z])", text.strip()):
        assert re.fullmatch(r"[a-z0-9-]+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", block), block[:80]


def test_what_is_wanted_is_locked() -> None:
    wanted = re.findall(r"^([a-z0-9-]+)[<>=]", (DEPLOY / "requirements-image.in").read_text(), re.M)
    assert len(wanted) > 8
    assert set(wanted) <= set(locked())


def test_the_lock_meets_what_edgerun_asks_for() -> None:
    """All base dependencies but the second runtime, and cryptography, are in the image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {re.split(r"[<>=;\[ ]", line)[0] for line in project["dependencies"]}
    assert base - set(locked()) == {"onnxruntime"}
    assert "cryptography" in locked()


def test_the_bill_of_materials_is_the_lock() -> None:
    bill = json.loads((DEPLOY / "sbom-image.json").read_text())
    assert {part["name"]: part["version"] for part in bill["components"]} == locked()
    assert all(part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}" for part in bill["components"])


def test_what_is_copied_is_there() -> None:
    for line in (ROOT / "Dockerfile.arm64").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), line
    package = yaml.safe_load((DEPLOY / "nfpm.yaml").read_text())
    for entry in package["contents"]:
        if not entry["src"].startswith(("${STAGE}", "/opt")):
            assert (ROOT / entry["src"]).is_file(), entry
    for script in package["scripts"].values():
        assert (ROOT / script).read_text().startswith("#!/bin/sh\n")
        assert (ROOT / script).stat().st_mode & 0o111


def manifests() -> list[dict[str, Any]]:
    return [one for path in sorted((DEPLOY / "k3s").glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]


@pytest.mark.parametrize("manifest", manifests(), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_kubernetes_takes_the_manifests(manifest: dict[str, Any]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    kubernetes_validate.validate(manifest, "1.28", strict=True)
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    if manifest["kind"] in ("DaemonSet", "Deployment"):
        assert_what_is_mounted_is_a_volume_and_nothing_runs_as_root(manifest["spec"]["template"]["spec"])


def assert_what_is_mounted_is_a_volume_and_nothing_runs_as_root(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_manifests_config_is_one() -> None:
    (text,) = [one["data"]["edgerun.toml"] for one in manifests() if one["kind"] == "ConfigMap"]
    raw = tomllib.loads(text)
    assert build(raw, flags.options_of, find_model=flags.find_model).streams["main"].source.kind == "camera"


def test_the_composed_files_are_there_and_the_config_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for service in composed["services"].values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source in composed["volumes"] or (DEPLOY / source).is_file(), volume
    raw = tomllib.loads((DEPLOY / "compose" / "edgerun.toml").read_text())
    clip = Path(raw["streams"]["main"]["source"])
    assert str(clip).startswith("/opt/edgerun/lib/python3.11/")
    assert (ROOT / "models" / "clips" / clip.name).is_file()
    raw["streams"]["main"]["source"] = "synthetic"
    assert build(raw, flags.options_of, find_model=flags.find_model).mqtt is not None
