"""The `update` entity's messages: what Home Assistant itself has to say to them, and what the broker keeps."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.publish.homeassistant import ModelTopics, ModelVersions, discovery, encode_versions
from tests import mosquitto
from tests.broker.parts import DEVICE, connection
from tests.publish.home_assistant import says
from tests.publish.test_home_assistant import RICH
from tests.schemas import validate

ROOT = f"edgerun/{DEVICE}"
NEWER = ModelVersions("2", "3", "detector", summary="finds bicycles " * 40, url="https://models.example/detector/3")

text = st.text(min_size=1, max_size=300)
versions = st.builds(
    ModelVersions,
    installed=text,
    latest=st.none() | text,
    title=st.none() | text,
    in_progress=st.booleans(),
    percentage=st.none() | st.integers(0, 100),
    summary=st.none() | text,
    url=st.none()
    | text
    | st.sampled_from(["https://a.example/x", "http://10.0.0.1:80", "ftp://x", "javascript:alert(1)"]),
)


@given(versions)
@settings(max_examples=100, deadline=None)
def test_every_message_is_of_the_schema(told: ModelVersions) -> None:
    message = json.loads(encode_versions(told))
    validate("model", message)
    assert message["installed_version"] == told.installed
    assert ("latest_version" in message) == (told.latest is not None)


@pytest.mark.timeout(240)
def test_home_assistant_takes_what_its_template_passes_on() -> None:
    """The real template over the real messages, and the result through the schema of the integration's `update`."""
    made = discovery(RICH)
    template = json.loads(made.payload)["cmps"]["model_detector"]["val_tpl"]
    each = (
        ModelVersions("2"),
        NEWER,
        msgspec.structs.replace(NEWER, in_progress=True),
        msgspec.structs.replace(NEWER, in_progress=True, percentage=40),
        msgspec.structs.replace(NEWER, installed="3", percentage=100),
        ModelVersions("91b39b13a61d", url="file:///etc/passwd"),
    )
    rendered = says(made.payload, [(template, encode_versions(one).decode()) for one in each])["rendered"]
    assert says(made.payload, updates=tuple(rendered))["problems"] == []
    told = [json.loads(one) for one in rendered]
    assert [one["installed_version"] for one in told] == ["2", "2", "2", "2", "3", "91b39b13a61d"]
    assert [one["in_progress"] for one in told] == [False, False, True, True, False, False]
    assert [one["update_percentage"] for one in told] == [None, None, None, 40, None, None]
    assert "latest_version" not in told[0]
    assert "release_url" not in told[5]
    assert "v" not in told[0]


def test_home_assistant_would_refuse_what_is_left_out() -> None:
    wrong = [{"installed_version": "1", "release_url": "file:///x"}, {"installed_version": "1", "v": 1}]
    for one in wrong:
        assert says(discovery(RICH).payload, updates=(json.dumps(one),))["problems"]


def test_the_broker_keeps_what_is_known_now() -> None:
    with (
        mosquitto.broker() as broker,
        connection(broker.url) as link,
        mosquitto.subscriber(broker, f"{ROOT}/#") as seen,
    ):
        topics = ModelTopics(link, ROOT, {"detector": ModelVersions("2", title="ssd"), "plates": ModelVersions("1")})
        assert {one.topic for one in topics.birth()} == {f"{ROOT}/models/detector", f"{ROOT}/models/plates"}
        assert all(one.retain and one.qos == 1 for one in topics.birth())
        topics.tell("detector", ModelVersions("2", "3", "ssd"))
        topics.tell("detector", ModelVersions("2", "3", "ssd"))  # nothing new
        topics.loaded({"detector": ModelVersions("3", title="ssd-2")})
        topics.loaded({"detector": ModelVersions("3", title="ssd-2")})
        assert link.flush(60)
        messages = [
            one for one in seen.wait(lambda ms: sum("/models/" in m.topic for m in ms) >= 3) if "/models/" in one.topic
        ]
        assert len(messages) == 3
        assert topics.names == ("detector",)
        assert topics.versions("detector") == ModelVersions("3", "3", "ssd-2")
    first, gone, last = messages
    assert json.loads(first.payload)["latest_version"] == "3"
    assert (gone.topic, gone.payload) == (f"{ROOT}/models/plates", b"")
    assert json.loads(last.payload)["installed_version"] == json.loads(last.payload)["latest_version"] == "3"
