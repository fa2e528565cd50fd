"""Who gets in: names, other sites, tokens, sessions."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from edgerun.clock import FakeClock
from edgerun.config.web import split_address
from edgerun.web.gate import SESSION_S, Gate, check_fixed
from edgerun.web.message import Request, Response

TOKEN = "correct-horse-battery"


def gate(*, token: str | None = TOKEN, loopback: bool = True, hosts: tuple[str, ...] = ()) -> tuple[Gate, FakeClock]:
    clock = FakeClock()
    return Gate(None if token is None else check_fixed(token), loopback=loopback, hosts=hosts, clock=clock), clock


def asked(method: str = "GET", peer: str = "10.0.0.9", body: bytes = b"", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, "/", {}, {"host": "127.0.0.1:8137", **named}, body, peer)


def cookie_of(answer: Response) -> str:
    return dict(answer.headers)["Set-Cookie"]


@pytest.mark.parametrize(
    ("host", "loopback", "ours"),
    [
        ("localhost", True, True),
        ("localhost:8137", True, True),
        ("127.0.0.1:8137", True, True),
        ("[::1]:8137", True, True),
        ("[::1]", True, True),
        ("dock-7.example:80", True, True),
        ("rebound.example", True, False),
        ("192.168.1.4:8137", True, False),
        ("192.168.1.4:8137", False, True),
        ("[fe80::1]:8137", False, True),
        ("rebound.example:8137", False, False),
        ("localhost.rebound.example", True, False),
        ("", True, False),
    ],
)
def test_a_name_that_leads_here_must_be_one_of_ours(host: str, loopback: bool, ours: bool) -> None:
    one, _ = gate(loopback=loopback, hosts=("Dock-7.example",))
    refusal = one.refuse(Request("GET", "/", {}, {"host": host}))
    assert (refusal is None) == ours
    assert one.refuse(Request("GET", "/", {}, {})) is not None


@pytest.mark.parametrize(
    ("method", "headers", "may"),
    [
        ("GET", {"sec-fetch-site": "same-origin", "sec-fetch-mode": "no-cors"}, True),
        ("GET", {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, True),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ("POST", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),
        ("POST", {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, False),
        ("POST", {"origin": "http://127.0.0.1:8137"}, True),
        ("POST", {"origin": "http://elsewhere.example"}, False),
        ("POST", {"origin": "null"}, False),
    ],
)
def test_other_sites_neither_embed_nor_send(method: str, headers: dict[str, str], may: bool) -> None:
    one, _ = gate()
    assert (one.refuse(Request(method, "/", {}, {"host": "127.0.0.1:8137", **headers})) is None) == may


def test_without_a_token_anybody_here_looks_and_nobody_acts() -> None:
    one, _ = gate(token=None)
    assert one.may_look(asked())
    refusal = one.refuse_act(asked("POST", x_edgerun="1"))
    assert refusal is not None
    assert b"[web] token" in refusal.body


def test_a_bearer_looks_and_acts() -> None:
    one, _ = gate()
    assert not one.may_look(asked())
    assert not one.may_look(asked(authorization="Bearer wrong"))
    assert not one.may_look(asked(authorization=f"Basic {TOKEN}"))
    assert one.may_look(asked(authorization=f"Bearer {TOKEN}"))
    assert one.refuse_act(asked("POST", authorization=f"bearer  {TOKEN}")) is None


def test_a_session_looks_and_with_the_header_acts_until_it_ends() -> None:
    one, clock = gate()
    answer = one.log_in(asked("POST", body=b'{"token": "%b"}' % TOKEN.encode()))
    assert answer.status == HTTPStatus.OK
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie_of(answer).split("; "))
    cookie = cookie_of(answer).partition(";")[0]
    assert one.may_look(asked(cookie=cookie))
    refusal = one.refuse_act(asked("POST", cookie=cookie))
    assert refusal is not None
    assert refusal.status == HTTPStatus.FORBIDDEN
    assert one.refuse_act(asked("POST", cookie=cookie, x_edgerun="1")) is None
    later = str(int(clock.unix_s()) + 10 * SESSION_S)
    name, _, value = cookie.partition("=")
    assert not one.may_look(asked(cookie=f"{name}={later}.{value.partition('.')[2]}"))
    assert not one.may_look(asked(cookie=f"{name}=\u00b2.x"))
    clock.advance(SESSION_S + 1)
    assert not one.may_look(asked(cookie=cookie))


def test_a_wrong_token_gives_no_session_and_too_many_are_not_looked_at() -> None:
    one, clock = gate()
    wrong = asked("POST", body=b'{"token": "guess"}')
    statuses = [one.log_in(wrong).status for _ in range(12)]
    assert statuses == [HTTPStatus.UNAUTHORIZED] * 10 + [HTTPStatus.TOO_MANY_REQUESTS] * 2
    right = b'{"token": "%b"}' % TOKEN.encode()
    assert one.log_in(asked("POST", body=right)).status == HTTPStatus.TOO_MANY_REQUESTS
    assert one.log_in(asked("POST", peer="10.0.0.8", body=right)).status == HTTPStatus.OK
    clock.advance(2.5)
    assert one.log_in(asked("POST", body=right)).status == HTTPStatus.OK


def test_a_bearer_that_was_wrong_too_often_is_told_to_wait() -> None:
    one, clock = gate()
    wrong, right = asked(authorization="Bearer guess"), asked(authorization=f"Bearer {TOKEN}")
    answers = []
    for _ in range(12):
        assert not one.may_look(wrong)
        answers.append(one.unknown(wrong).status)
    assert answers == [HTTPStatus.UNAUTHORIZED] * 9 + [HTTPStatus.TOO_MANY_REQUESTS] * 3
    assert not one.may_look(right)
    assert one.unknown(right).status == HTTPStatus.TOO_MANY_REQUESTS
    refusal = one.refuse_act(right)
    assert refusal is not None
    assert refusal.status == HTTPStatus.TOO_MANY_REQUESTS
    assert one.unknown(asked()).status == HTTPStatus.UNAUTHORIZED
    clock.advance(2.5)
    assert one.may_look(right)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"token": 5}', b"\xff", b"{" * 100_000])
def test_what_is_no_login(body: bytes) -> None:
    one, _ = gate()
    assert one.log_in(asked("POST", body=body)).status == HTTPStatus.BAD_REQUEST


def test_logging_out_takes_the_cookie_back() -> None:
    one, _ = gate()
    assert "Max-Age=0" in cookie_of(one.log_out())


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1:8137", ("127.0.0.1", 8137)),
        ("127.0.0.1", ("127.0.0.1", 8137)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("::1", ("::1", 8137)),
        ("[::]", ("::", 8137)),
        ("localhost:80", None),
        ("127.0.0.1:99999", None),
        ("127.0.0.300:80", None),
        ("8137", None),
        (":8137", None),
        ("", None),
    ],
)
def test_addresses(given: str, address: tuple[str, int] | None) -> None:
    if address is not None:
        assert split_address(given) == address
        return
    with pytest.raises(ValueError, match=r"address|port|IPv"):
        split_address(given)
