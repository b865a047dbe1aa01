"""A worker that dies while a reply is being written, seen by somebody who follows it."""

from sandbox.people import Person
from sandbox.stack.deployment import Deployment
from tests.event_streams import events_of, text_of


def test_a_follower_sees_the_reply_start_again_and_end_whole(tmp_path):
    environ = {"REPLY_LEASE_SECONDS": "1", "REPLY_REQUEUE_AFTER_SECONDS": "1", "REPLY_SWEEP_SECONDS": "0.5"}
    environ["WEB_CONCURRENCY"] = "1"
    with Deployment(tmp_path, environ=environ) as stack:
        person = Person(stack.url)
        person.arrive()
        stack.gemini.behave(hang_after=5)
        reply = person.send_streamed("[[sandbox: words=30]] Tell me a story")
        with person.follow(reply) as response:
            stream = events_of(response.iter_content(chunk_size=None))
            received = []
            while sum(event.name == "delta" for event in received) < 5:
                received.append(next(stream))
            stack.kill("worker")
            stack.gemini.reset()
            stack.start("worker")
            received += list(stream)
        [stored] = [message for message in person.messages() if message["role"] == "model"]
        assert "reset" in [event.name for event in received]
        assert received[-1].name == "completed"
        assert text_of(received) == stored["text"]
        assert person.used() == 1
