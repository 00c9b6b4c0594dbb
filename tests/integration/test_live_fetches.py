"""Images behind addresses that do not answer for a while: labels, records and states are those of a job that was
answered at once."""

import http.server
import threading
import time
from collections import Counter

import pytest
from live_jobs import LiveJob, image_event, picture, send

EVENTS = 12
SILENCE = 0.3
"""Seconds for which a request is left without an answer; the job's time-out is the fifth of that."""


class Web(http.server.ThreadingHTTPServer):
    """Serves ``/NUMBER.jpg``; ``trouble``: number -> what becomes of its requests before the first good answer."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.trouble, self.asked = {}, Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that has gone is what is wanted here."""


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        number = int(self.path.strip("/").removesuffix(".jpg"))
        self.server.asked[number] += 1
        trouble = self.server.trouble.get(number, [])
        what = trouble.pop(0) if trouble else 200
        if what == "silence":
            time.sleep(SILENCE)
            self.close_connection = True
            return
        body = picture(number) if what in (200, "half") else b"busy"
        self.send_response(200 if what == "half" else what)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if what == "half" else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def job_over(job_server, broker, folder, topic, web):
    return LiveJob(
        job_server, broker, folder, topic,
        source={"allow_uris": [web.url]}, checkpoint={"slice_records": 4}, kafka={"partitions": "0"},
    )  # fmt: skip


def test_labels_and_states_are_as_if_every_fetch_had_been_answered_at_once(broker, topic, job_server, tmp_path, web):
    name = topic()
    send(broker, name, [(0, image_event(n, f"cam-{n % 2}", uri=f"{web.url}/{n}.jpg")) for n in range(EVENTS)])
    calm, shaken = (job_over(job_server, broker, tmp_path, name, web) for _ in range(2))
    environment = {"no_proxy": "*"}
    assert calm.run({"kafka": {"until": "latest"}}, environment=environment) == 0, calm.said()
    assert web.asked == dict.fromkeys(range(EVENTS), 1)
    web.trouble = {
        1: [503] * 3,
        2: ["silence"] * 2,
        5: [503] * 7,  # more than a slice's attempts: the slice fails and is run again
        6: [429, "silence", 500, "half"],
        9: ["half"],
    }
    waited = {number: len(one) for number, one in web.trouble.items()}
    web.asked.clear()
    assert shaken.run({"kafka": {"until": "latest"}}, environment=environment, fetch_timeout=SILENCE / 5) == 0
    assert {number: web.asked[number] > waited[number] for number in waited} == dict.fromkeys(waited, True)
    assert "all partitions resume" in shaken.said()
    assert shaken.states() == calm.states()
    assert shaken.counted() == calm.counted() == {"events": EVENTS, "labels": EVENTS, "dead_letters": 0}
    for kind in ("", ".adaptation", ".drift", ".dead_letters", ".monitor"):
        assert once(shaken.records(kind)) == calm.records(kind), kind


def once(records):
    """A slice that failed may have sent nothing yet, or all of its records: those that come again are equal."""
    return [record for number, record in enumerate(records) if record not in records[:number]]
