"""A hanging Gemini delays nobody else."""

from concurrent.futures import ThreadPoolExecutor

from sandbox.stack.processes import wait_until
from tests.celery_process import celery_process

HANGING = 64
MAX_WORKER_MB = 250


def test_sixty_four_hanging_calls_delay_nobody(make_app, make_user, gemini, own_environment, tmp_path):
    own = own_environment | {"GEMINI_TIMEOUT": "100"}
    client = make_app(redis_url=own["REDIS_URL"]).test_client()
    people = [make_user() for _ in range(HANGING + 1)]
    rooms = [person.make_chatroom() for person in people]
    for person in people:
        person.client = client

    def hang(number):
        return people[number].post(f"{rooms[number]}/message", json={"text": "[[sandbox: hang]]"}).status_code

    log_file = tmp_path / "worker.log"
    with celery_process("worker", own, log_file) as worker:
        assert wait_until(lambda: " ready." in log_file.read_text(), seconds=60), log_file.read_text()
        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(hang, range(HANGING))) == {202}
        gemini.wait_for(in_flight_at_least=HANGING, timeout=30)
        answer = people[-1].post(f"{rooms[-1]}/message", json={"text": "Hello"}, headers={"Prefer": "wait=20"})
        assert answer.status_code == 200
        assert gemini.stats()["in_flight"] >= HANGING
        assert worker.memory_info().rss / 2**20 < MAX_WORKER_MB
        gemini.reset()
