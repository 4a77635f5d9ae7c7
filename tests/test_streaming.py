import asyncio
import json

from minigpt.serve.errors import ApiError
from minigpt.serve.streaming import Streamed, events


def test_events_are_json_each_and_end_with_done():
    async def chunks():
        yield {"a": "é\n"}
        yield {"b": 1}

    async def collect():
        return [one async for one in events(chunks())]

    found = asyncio.run(collect())
    assert found == ['data: {"a":"é\\n"}\n\n', 'data: {"b":1}\n\n', "data: [DONE]\n\n"]


def test_an_error_in_the_middle_is_an_event_and_the_last_one():
    async def chunks():
        yield {"a": 1}
        raise ApiError(503, "the server is stopping")

    async def collect():
        return [one async for one in events(chunks())]

    found = asyncio.run(collect())
    assert (
        json.loads(found[-1].removeprefix("data: "))["error"]["message"] == "the server is stopping"
    )
    assert len(found) == 2


def test_a_stream_is_ended_once_whatever_ends_it():
    ended, sent = [], []

    async def chunks():
        while True:
            yield {}
            await asyncio.sleep(0)

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def run():
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        await Streamed(chunks(), lambda: ended.append(1))(scope, receive, send)

    asyncio.run(run())
    assert ended == [1]
    headers = dict(sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"x-accel-buffering"] == b"no"
