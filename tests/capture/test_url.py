from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgerun.capture.url import mask_url

_PASSWORD = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=6, max_size=30)
_NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:secret@cam/1", "rtsp://user:***@cam/1"),
        ("rtsp://cam:554/1", "rtsp://cam:554/1"),
        ("http://user:p@ss@10.0.0.5:8080/video?x=1", "http://user:***@10.0.0.5:8080/video?x=1"),
        ("http://user:pa/ss@cam/video", "http://user:***@cam/video"),
        ("http://user:pa#s?s@cam", "http://user:***@cam"),
        ("http://token@cam/video", "http://***@cam/video"),
        ("http://cam/mail/me@example.org", "http://cam/mail/me@example.org"),
        ("http://user:x@[fe80::1]:80/v", "http://user:***@[fe80::1]:80/v"),
        ("cannot open rtsp://u:p@cam/1: refused", "cannot open rtsp://u:***@cam/1: refused"),
        ("no answer from rtsp://u:p@cam: refused", "no answer from rtsp://u:***@cam: refused"),
        ("rtsp://u:two words@cam/1", "rtsp://u:***@cam/1"),
        ("http://u:p@cam/1 moved to http://v:q@cam/2", "http://u:***@cam/1 moved to http://v:***@cam/2"),
        ("no url at all, me@example.org", "no url at all, me@example.org"),
    ],
)
def test_masked(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@given(_NAME, _PASSWORD, _NAME, st.sampled_from(["", "/", "/a/b?c=d", ":8080/x"]))
def test_no_password_survives(user: str, password: str, host: str, rest: str) -> None:
    visible = f"rtsp://{user}@{host}{rest}"
    assume(password not in visible and password not in "***")
    shown = mask_url(f"rtsp://{user}:{password}@{host}{rest}")
    assert password not in shown
    assert shown.startswith(f"rtsp://{user}:***@")
    assert shown.endswith(rest)


@given(_NAME, st.sampled_from(["", ":554", ":8080"]), st.sampled_from(["", "/", "/a?b=c", "/a:b?c=d#e"]))
def test_nothing_else_changes(host: str, port: str, rest: str) -> None:
    url = f"http://{host}{port}{rest}"
    assert mask_url(url) == url


@given(st.text(max_size=80))
def test_masking_twice_changes_nothing(text: str) -> None:
    assert mask_url(mask_url(text)) == mask_url(text)
