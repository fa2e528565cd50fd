"""TLS towards the broker."""

from __future__ import annotations

import ssl
from typing import Any

from edgerun.broker.options import BrokerOptions
from edgerun.errors import ConfigError


class ClientContext(ssl.SSLContext):
    """Remembers the socket it wrapped last: paho loses it when the handshake fails, and it would stay open."""

    wrapped: ssl.SSLSocket | None = None

    def wrap_socket(self, *args: Any, **how: Any) -> ssl.SSLSocket:
        self.wrapped = super().wrap_socket(*args, **how)
        return self.wrapped


def uses_tls(options: BrokerOptions) -> bool:
    """Whether any of its brokers is asked for TLS."""
    return any(address.tls for address in options.addresses)


def tls_context(options: BrokerOptions) -> ClientContext:
    """TLS 1.2 or newer, the broker verified against `ca_file` or the system's certificates. Raises `ConfigError`.

    Made anew for every connection, so that renewed certificates count without a restart.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if options.ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(options.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise _unusable("ca_file", options.ca_file, error) from error
    if options.cert_file is not None and options.key_file is not None:
        try:
            context.load_cert_chain(options.cert_file, options.key_file, password=_no_passphrase)
        except (OSError, ValueError) as error:
            raise _unusable("cert_file, key_file", f"{options.cert_file}, {options.key_file}", error) from error
    return context


def _no_passphrase() -> str:
    """For an encrypted key: an empty passphrase fails, where OpenSSL would ask on the terminal and wait for ever."""
    return ""


def _unusable(where: str, file: object, error: Exception) -> ConfigError:
    return ConfigError(
        "the certificate cannot be used",
        where=where,
        expected="a PEM file, its key without a passphrase",
        got=f"{file}: {error}",
        remedy="check the file and that edgerun's user may read it",
    )
