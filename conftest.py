"""What all tests share: nothing asks a model hub, and cores are shared between the workers."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
