"""The demo opens with its page, and tells where it is."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit


def demo(*flags: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "edgerun", "demo", *flags]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_the_address_is_told_first_and_opens_the_page() -> None:
    with demo() as process:
        try:
            assert process.stderr is not None
            told = re.fullmatch(r"status page: (http://127\.0\.0\.1:\d+/)#token=(\S+)\n", process.stderr.readline())
            assert told is not None
            deadline = time.monotonic() + 60
            while True:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                try:
                    connection = http.client.HTTPConnection(urlsplit(told[1]).netloc, timeout=30)
                    connection.request("GET", "/api/status", headers={"Authorization": f"Bearer {told[2]}"})
                    answer = connection.getresponse()
                    status = json.loads(answer.read())
                    break
                except OSError:
                    threading.Event().wait(0.1)
                finally:
                    connection.close()
            assert answer.status == 200
            assert list(status["streams"]) == ["main"]
            assert "pause" in status["commands"]
        finally:
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
    assert told[2] not in said
    assert process.returncode == 0


def test_no_page_when_none_is_wanted() -> None:
    with demo("--no-page", "--seconds", "1") as process:
        assert process.stderr is not None
        assert "page" not in process.stderr.read()
    assert process.returncode == 0
