"""Who this device is among others, and where its secrets come from."""

from __future__ import annotations

from collections.abc import Iterator

from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, red, yellow
from edgerun.errors import ConfigError

_GENERIC = frozenset(
    ("localhost", "raspberrypi", "raspberry", "ubuntu", "debian", "jetson", "nvidia-desktop", "nano-desktop", "linux")
)
"""Host names that images ship with: two devices of that name would take each other's MQTT session over."""


def look(patient: Patient) -> Iterator[Line]:
    """Raises `DeviceError` when a file that tells it cannot be read."""
    machine, needs = patient.machine, patient.needs
    host = machine.text("proc/sys/kernel/hostname") or ""
    serial = machine.text("proc/device-tree/serial-number") or machine.text("etc/machine-id") or ""
    if needs.device_id is not None and needs.device_id not in _GENERIC:
        yield green("device id", needs.device_id)
    elif (needs.device_id or host) in _GENERIC:
        own = f"{(needs.device_id or host)}-{serial[-4:].lower()}" if serial else "a name of its own"
        yield yellow(
            "device id",
            f"{needs.device_id or host}, a name that other devices have too",
            f'give it one of its own in the config: [device] id = "{own}", or `sudo hostnamectl set-hostname {own}`',
        )
    else:
        yield green("device id", f"{host} (the host's name)")
    yield from _machine_id(patient)
    yield from _password(patient)


def _machine_id(patient: Patient) -> Iterator[Line]:
    told = patient.machine.text("etc/machine-id")
    if told is None or told == "uninitialized":
        remedy = "only systemd makes one; where it is wanted: `sudo systemd-machine-id-setup`"
        yield absent("machine id", "none", remedy)
    elif not told:
        yield yellow("machine id", "empty", "make one: `sudo systemd-machine-id-setup`")
    else:
        yield green("machine id", f"{told[:8]}…")


def _password(patient: Patient) -> Iterator[Line]:
    broker = patient.needs.broker
    secret = broker.password if broker is not None else None
    if secret is None:
        remedy = 'where the broker wants one, name it in the config: [mqtt] password = { credential = "mqtt-password" }'
        yield absent("broker password", "none given", remedy)
        return
    try:
        secret.reveal()
    except ConfigError as error:
        outside = secret.kind == "credential" and not patient.machine.environ.get("CREDENTIALS_DIRECTORY")
        value = f"{error.what}: {error.got}"
        if outside:
            value = "a systemd credential, which exists inside the unit only"
            name = (secret.place or {}).get("credential", "mqtt-password")
            option = f"-p LoadCredential={name}:/etc/edgerun/{name}"
            remedy = f"try it there: `sudo systemd-run --pipe {option} edgerun doctor --config FILE`"
            yield yellow("broker password", value, remedy)
        else:
            yield red("broker password", value, error.remedy or "name a place that has it", needed=True)
        return
    unwise = secret.warnings()
    if unwise:
        what, _, remedy = unwise[0].partition(". ")
        yield yellow("broker password", what, remedy)
    else:
        yield green("broker password", f"found ({secret.kind})")
