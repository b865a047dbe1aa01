"""A hanging Gemini delays nobody else."""

from concurrent.futures import ThreadPoolExecutor

import psutil

HANGING = 64
MAX_WORKER_MB = 250


def test_sixty_four_hanging_calls_delay_nobody(make_user, worker, gemini):
    people = [make_user() for _ in range(HANGING)]

    def hang(person):
        return person.post(f"{person.make_chatroom()}/message", json={"text": "[[sandbox: hang]]"}).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(hang, people)) == {202}
    assert gemini.wait_for(in_flight_at_least=HANGING)["in_flight"] >= HANGING
    somebody = make_user()
    answer = somebody.post(f"{somebody.make_chatroom()}/message", json={"text": "Hello"}, headers={"Prefer": "wait=5"})
    assert answer.status_code == 200
    assert gemini.wait_for(in_flight_at_least=HANGING)["in_flight"] >= HANGING
    [process] = [process for process in psutil.Process().children() if "worker" in process.cmdline()]
    assert process.memory_info().rss / 2**20 < MAX_WORKER_MB
