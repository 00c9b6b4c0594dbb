"""Certificates, users and listeners of a local broker that asks for TLS and passwords.

Everything is made for one folder and good for a day; nothing is trusted beyond it. A broker with it has, beside the
plaintext listener, ``SSL`` (TLS), ``MTLS`` (TLS, and the client must have a certificate) and ``SASL_SSL`` (TLS and a
password: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512).
"""

import ipaddress
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LISTENERS = {"SSL": "SSL", "MTLS": "SSL", "SASL_SSL": "SASL_SSL"}
SCRAM_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512")
MECHANISMS = ("PLAIN", *SCRAM_MECHANISMS)
_LOGIN = "org.apache.kafka.common.security"
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Security:
    """What a broker and its clients need to know; the paths are PEM files."""

    ca_file: Path
    server_file: Path
    client_certificate: Path
    client_key: Path
    user: str
    password: str

    def properties(self) -> dict[str, str]:
        """The broker's settings, without its listeners."""
        settings = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.server_file),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            "ssl.client.auth": "none",
            "listener.name.mtls.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": ",".join(MECHANISMS),
            "listener.name.sasl_ssl.plain.sasl.jaas.config": (
                f'{_LOGIN}.plain.PlainLoginModule required user_{self.user}="{self.password}";'
            ),
        }
        for mechanism in SCRAM_MECHANISMS:
            key = f"listener.name.sasl_ssl.{mechanism.lower()}.sasl.jaas.config"
            settings[key] = f"{_LOGIN}.scram.ScramLoginModule required;"
        return settings

    def format_options(self) -> list[str]:
        """What the storage tool needs, so that the users are there from the first start."""
        users = [f"{mechanism}=[name={self.user},password={self.password}]" for mechanism in SCRAM_MECHANISMS]
        return [word for user in users for word in ("--add-scram", user)]

    def client_options(self, listener: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, Any]:
        """Options of a kafka-python client of one of `LISTENERS`; ``mechanism`` is read for ``SASL_SSL`` only."""
        options = {"security_protocol": LISTENERS[listener], "ssl_cafile": str(self.ca_file)}
        if listener == "MTLS":
            options |= {"ssl_certfile": str(self.client_certificate), "ssl_keyfile": str(self.client_key)}
        if listener == "SASL_SSL":
            options |= {"sasl_mechanism": mechanism}
            options |= {"sasl_plain_username": self.user, "sasl_plain_password": self.password}
        return options


def make_security(folder: Path) -> Security:
    """Write an authority, a certificate for 127.0.0.1 and one for a client into ``folder``, and choose a password."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("local authority", authority_key, None, authority_key)
    files = Security(
        ca_file=folder / "ca.pem",
        server_file=folder / "server.pem",
        client_certificate=folder / "client.pem",
        client_key=folder / "client.key",
        user="alice",
        password=secrets.token_hex(16),
    )
    server_key, client_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    server = _certificate("127.0.0.1", server_key, authority, authority_key)
    client = _certificate("client", client_key, authority, authority_key)
    files.ca_file.write_bytes(_pem(authority))
    files.server_file.write_bytes(_pem(server_key) + _pem(server) + _pem(authority))
    files.client_certificate.write_bytes(_pem(client))
    files.client_key.write_bytes(_pem(client_key))
    return files


def _pem(thing: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM)
    return thing.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """A certificate over ``key``; without an issuer, that of an authority."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now, is_authority = datetime.now(UTC), issuer is None
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _key_usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
