from __future__ import annotations

from redis.crc import key_slot

from service import keys
from service.settings import Settings


def test_all_keys_share_one_cluster_slot() -> None:
    every = [
        *keys.queues(),
        *map(keys.shares, keys.PRIORITIES),
        *(keys.jobs("c"), keys.idempotency("c", "k"), keys.live("a"), keys.cache("h", "m")),
        *(keys.hook("a.1"), keys.deliveries("a")),
        *keys.of_job("a"),
        *keys.of_job("b"),
        keys.worker("w"),
        *keys.SHARED,
    ]
    assert len({key_slot(key.encode()) for key in every}) == 1
    assert len(set(every)) == len(every)


def test_the_queue_of_high_priority_comes_first() -> None:
    assert keys.queues() == [keys.queue("high"), keys.queue("normal"), keys.queue("low")]


def test_of_job_names_every_key_of_a_job() -> None:
    kinds = (keys.job, keys.events, keys.preview, keys.source, keys.result, keys.followers)
    named = [key("a") for key in kinds]
    assert keys.of_job("a") == named


def test_every_key_is_in_the_table_of_the_docstring() -> None:
    table = keys.__doc__ or ""
    kinds = [*(f"{kind}:ID" for kind in keys.PER_JOB), "queue:PRIORITY", "shares:PRIORITY"]
    kinds += ["worker:ID", "jobs:CALLER", "idempotency:HASH", "hook:MESSAGE", "deliveries:ID"]
    kinds += [key.rpartition(":")[2] for key in keys.SHARED]
    assert [kind for kind in kinds if f"| {kind} " not in table] == []


def test_an_unfinished_job_outlives_a_finished_one() -> None:
    for retention_s in (60, 3600, 7 * 86_400):
        settings = Settings(retention_s=retention_s)
        assert keys.alive_ttl_s(settings) >= max(86_400, 2 * retention_s)


def test_idempotency_keys_of_two_callers_never_meet() -> None:
    assert keys.idempotency("a", "bc") != keys.idempotency("ab", "c")
