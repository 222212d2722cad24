"""The contract is one, whoever asks first: what is built late is built once."""

from __future__ import annotations

import subprocess
import sys

# A fresh process each time: what was built once stays. Of three such processes one came apart before there was a lock.
ASK = """
import sys, threading
sys.setswitchinterval(1e-6)
from microtome.contracts.codec import from_bytes, to_bytes
from microtome.contracts.messages import JobParameters, JobSpec, WorkflowSubmitted
start, wrong = threading.Barrier(8), []

def ask():
    message = WorkflowSubmitted(workflow_id="w", jobs=(JobSpec(job_id="j", parameters=JobParameters(mpp=0.5)),))
    start.wait()
    try:
        assert from_bytes(WorkflowSubmitted, to_bytes(message)) == message
    except Exception as error:
        wrong.append(repr(error))

threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.exit("; ".join(wrong[:1]) or 0)
"""


def test_threads_that_ask_at_once_get_the_same_classes() -> None:
    for _ in range(8):
        done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
