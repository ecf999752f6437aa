"""The recorder at its edges: TLS, streams, half-open connections, object stores, wrong options."""

import datetime as dt
import ipaddress
import socket

import grpc
import pytest
from peers import INFER, outcome
from proxies import Kept, proxied
from recordings import adds_up, recorded, recording, request

from harness.core.errors import UsageError
from harness.core.places import place_from_text
from harness.record.tls import ClientTls, ServerTls
from harness.store.traffic import TrafficSource
from harness.wire import MODEL_STREAM_INFER


def certificate(folder, name, issuer=None):
    """A key and a certificate for localhost, signed by `issuer` or by itself; their paths."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[1].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(issuer[0] if issuer else key, hashes.SHA256())
    )
    cert_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
    cert_path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    return (key, signed), cert_path, key_path


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pem")
    authority, ca, _ = certificate(folder, "authority")
    made = {"ca": ca}
    for name in ("proxy", "client"):
        _, made[f"{name}_cert"], made[f"{name}_key"] = certificate(folder, name, authority)
    return made


def ask_securely(address, pem, *, with_certificate):
    credentials = grpc.ssl_channel_credentials(
        pem["ca"].read_bytes(),
        pem["client_key"].read_bytes() if with_certificate else None,
        pem["client_cert"].read_bytes() if with_certificate else None,
    )
    with grpc.secure_channel(address.replace("127.0.0.1", "localhost"), credentials) as channel:
        return channel.unary_unary(INFER)(b"x", timeout=5)


@pytest.mark.parametrize("relayed", [False, True])
def test_clients_and_upstreams_may_speak_tls(server, pem, relayed):
    shown = ServerTls(cert=pem["proxy_cert"], key=pem["proxy_key"])
    with proxied(server, tls=shown) as inner:
        upstream = inner.address.replace("127.0.0.1", "localhost")
        trusts = ClientTls(ca=pem["ca"])
        with proxied(upstream, upstream_tls=trusts, relayed=relayed) as outer:
            assert outcome(outer.address, b"x")["response"] == b"x"
        with proxied(
            upstream, upstream_tls=ClientTls(ca=pem["client_cert"]), relayed=relayed
        ) as stranger:
            assert outcome(stranger.address, b"x")["code"] is grpc.StatusCode.UNAVAILABLE


def test_bytes_pass_between_two_sides_of_tls(server, pem):
    shown = ServerTls(cert=pem["proxy_cert"], key=pem["proxy_key"], ca=pem["ca"])
    trusts = ClientTls(ca=pem["ca"], cert=pem["client_cert"], key=pem["client_key"])
    kept = Kept()
    with proxied(server, tls=shown) as inner:
        upstream = inner.address.replace("127.0.0.1", "localhost")
        with proxied(
            upstream, tls=shown, upstream_tls=trusts, relayed=True, taps=[kept]
        ) as running:
            assert ask_securely(running.address, pem, with_certificate=True) == b"x"
            assert [c.request for c in kept.wait(1)] == [b"x"]


@pytest.mark.parametrize("relayed", [False, True])
def test_clients_without_a_certificate_are_refused_where_one_is_asked_for(server, pem, relayed):
    shown = ServerTls(cert=pem["proxy_cert"], key=pem["proxy_key"], ca=pem["ca"])
    with proxied(server, tls=shown, relayed=relayed) as running:
        assert ask_securely(running.address, pem, with_certificate=True) == b"x"
        with pytest.raises(grpc.RpcError):
            ask_securely(running.address, pem, with_certificate=False)


def test_a_file_that_is_no_pem_is_a_usage_error(tmp_path, pem):
    (tmp_path / "x").write_text("no certificate")
    with pytest.raises(UsageError, match="is no PEM file"):
        ClientTls(ca=tmp_path / "x").credentials()
    (tmp_path / "y").write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
    with pytest.raises(UsageError, match="holds no usable certificate"):
        ClientTls(ca=tmp_path / "y").context()
    with pytest.raises(UsageError, match="needs its private key"):
        ClientTls(cert=pem["client_cert"]).credentials()


def test_a_key_of_another_certificate_is_a_usage_error(pem):
    for made in (ServerTls, ClientTls):
        with pytest.raises(UsageError, match="private key of the certificate"):
            made(cert=pem["proxy_cert"], key=pem["client_key"]).credentials()
        with pytest.raises(UsageError, match="private key of the certificate"):
            made(cert=pem["proxy_cert"], key=pem["client_key"]).context()


def test_streamed_pairs_are_recorded(server, tmp_path):
    out = tmp_path / "traffic"
    asked = [request(0, "pair"), request(1, "pair"), request(2, "bad"), request(3, "one")]
    with recording(server, out) as running:
        with grpc.insecure_channel(running.address) as channel:
            assert len(list(channel.stream_stream(MODEL_STREAM_INFER)(iter(asked)))) == 4
        totals = running.end()
    found = {e.request_id: e for e in recorded(out)}
    assert [found[f"r{i}"].request for i in range(4)] == asked
    assert [found[f"r{i}"].code for i in range(4)] == [0, 0, 2, 0]
    assert found["r2"].metadata[":details"] == "oops"
    assert len({e.metadata[":stream"] for e in found.values()}) == 1
    assert {e.method for e in found.values()} == {MODEL_STREAM_INFER}
    assert adds_up(totals)


@pytest.mark.long
def test_half_open_connections_do_not_stop_others(server, tmp_path):
    with recording(server, tmp_path / "traffic") as running:
        host, port = running.address.split(":")
        loris = [socket.create_connection((host, int(port))) for _ in range(30)]
        for connection in loris:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM")
        assert running.ask([request(i) for i in range(20)]) == 20
        for connection in loris:
            connection.close()
        assert running.end()["written"] == 20


def test_a_recording_goes_to_an_object_store(server, bucket, tmp_path):
    out = str(bucket)
    with recording(
        server, tmp_path / "unused", "--out", out, "--spool", tmp_path / "spool"
    ) as running:
        assert running.ask([request(i) for i in range(10)]) == 10
        totals = running.end()
    source = TrafficSource.open([place_from_text(out)])
    assert {e.request_id for e in source.exchanges()} == {f"r{i}" for i in range(10)}
    assert source.totals[0].seen == totals["seen"] == 10
    assert not list((tmp_path / "spool").rglob("*.parquet"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--listen", "nowhere"], "is no HOST:PORT"),
        (["--upstream", "host:99999"], "is no HOST:PORT"),
        (["--sample", "2"], "is no share"),
        (["--out", "/proc/none/traffic"], "cannot be written to"),
        (["--name", "a/b"], "is no plain word"),
        (["--tls-cert", __file__], "TLS needs both"),
        (["--queue-bytes", "many"], "is no size"),
        (["--metrics", "127.0.0.1:1:2"], "cannot be listened on"),
        (["--out", "s3://bucket/traffic"], "--spool"),
        (["--grace", "soon"], "is no duration"),
        (["--rotate-seconds", "nan"], "is not between"),
        (["--rotate-seconds", "inf"], "is not between"),
        (["--rotate-seconds", "0"], "is not between"),
    ],
)
def test_wrong_options_are_usage_errors(harness, tmp_path, options, says):
    given = {"--listen": "127.0.0.1:0", "--upstream": "127.0.0.1:1", "--out": tmp_path / "t"}
    given |= dict(zip(options[::2], options[1::2], strict=True))
    ran = harness("record", *(word for pair in given.items() for word in pair))
    assert ran.code == 2
    assert says in ran.err
