"""Every record that gives no document is counted and reported with its place."""

from data_prep.readers.document import BadRecords, UnusedRecord


def test_unused_records_are_reported() -> None:
    seen: list[UnusedRecord] = []
    bad = BadRecords("skip", report=seen.append)
    bad.add("a.jsonl", 7, "not JSON", "line 1", num_bytes=5)
    bad.add_cut("a.jsonl", 12, "cut inside a record", num_bytes=3)
    bad.skip("redirect", 9, "b.xml", 40)
    bad.skip("image", 4)
    assert [(*record[:4], record.num_bytes) for record in seen] == [
        ("a.jsonl", 7, "bad", "not JSON", 5),
        ("a.jsonl", 12, "bad", "cut inside a record", 3),
        ("b.xml", 40, "skipped", "redirect", 9),
    ]
    assert dict(bad.skipped) == {"redirect": 1, "image": 1}
    assert dict(bad.not_read_bytes) == {"cut inside a record": 3}
