"""Room of recorded runs: long or many-seed experiments, their results, and how to rerun them.

A record is a CSV in this folder. Every row carries the configuration, the seed, the results, and
the hashes of the code and the corpus that made it; the module of the same name makes it again:
`python -m course_utils.records.scaling`. `course verify-records` reruns one cheap row of each.
"""

from course_utils.records.recorded import Record, VerifyResult, load_record, names, verdict, verify

__all__ = ["Record", "VerifyResult", "load_record", "names", "verdict", "verify"]
