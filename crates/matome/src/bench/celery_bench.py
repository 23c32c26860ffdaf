"""The released Celery beside matome: what `matome bench tasks` runs with the Python of scripts/install-missing.

    python celery_bench.py URL COUNT PACE SECONDS PATIENCE

prints one JSON object. The worker keeps its defaults but for two options that a durable task needs: a message is removed when its
task has ended (acks_late), also when its worker is lost. Results go to the same Redis, as matome keeps them in its database.
"""
import json
import os
import signal
import subprocess
import sys
import time

from celery import Celery

URL = os.environ.get("BENCH_URL") or sys.argv[1]
app = Celery("bench", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_default_queue="bench",
    result_expires=3600,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


running = []


@app.task(name="bench.nothing")
def nothing():
    return time.time()


@app.task(name="bench.long")
def long(key):
    app.backend.client.rpush(key, time.time())
    time.sleep(120)


def worker(slots):
    """Starts a worker; returns it with its name."""
    name = f"bench{slots}-{time.time_ns()}@localhost"
    command = [sys.executable, "-m", "celery", "--app", "celery_bench", "worker", "--concurrency", str(slots)]
    command += ["--loglevel", "critical", "--hostname", name]
    environment = {**os.environ, "BENCH_URL": URL, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    running.append(process)
    return process, name


def ready(name):
    until = time.time() + 60
    while not app.control.inspect(destination=[name], timeout=0.5).ping():
        if time.time() > until:
            raise TimeoutError(f"{name} does not answer")


def stop(process, how=signal.SIGTERM):
    os.killpg(process.pid, how)
    process.wait(timeout=60)


def memory(process):
    """MiB of all processes of a worker, shared pages counted once, and how many they are."""
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit() and group(pid) == process.pid]
    sizes = []
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            sizes += [int(line.split()[1]) for line in rollup if line.startswith("Pss:")]
    return {"mib": sum(sizes) / 1024, "processes": len(pids)}


def group(pid):
    try:
        return os.getpgid(int(pid))
    except OSError:
        return None


def rate(slots, count):
    """Tasks a second, of tasks that were sent before the worker started: from the first end to the last."""
    results = [nothing.delay() for _ in range(count)]
    process, _ = worker(slots)
    until, ends, left = time.time() + 300, [], 0
    for result in results:
        try:
            result.get(timeout=max(until - time.time(), 0.01))
            ends.append(result.date_done.timestamp())
        except Exception:
            left += 1
    told = {"per_second": (len(ends) - 1) / max(max(ends) - min(ends), 1e-6), "left": left, **memory(process)}
    stop(process)
    return told


def latency(pace, seconds):
    """From asked for to started: one at a time, and `pace` a second."""
    process, name = worker(8)
    ready(name)
    idle = []
    for _ in range(50):
        asked = time.time()
        idle.append(nothing.delay().get(timeout=60) - asked)
        time.sleep(0.05)
    loaded, begun = [], time.time()
    for n in range(pace * seconds):
        wait = begun + n / pace - time.time()
        if wait > 0:
            time.sleep(wait)
        # The clock of a task begins when it was to be asked for: who asks does not wait for the others.
        loaded.append((begun + n / pace, nothing.delay()))
    waits = [result.get(timeout=300) - asked for asked, result in loaded]
    stop(process)
    return {"idle": spread(idle), "loaded": spread(waits)}


def spread(values):
    values = sorted(values)
    at = lambda share: values[min(len(values) - 1, int(len(values) * share))]
    return {"p50": at(0.5), "p99": at(0.99)}


def recovery(patience):
    """One of two workers is killed while eight tasks run in it: until all of these have begun elsewhere."""
    doomed, _ = worker(8)
    keys = [f"bench:began:{n}" for n in range(8)]
    app.backend.client.delete(*keys)
    for key in keys:
        long.delay(key)
    while sum(app.backend.client.llen(key) for key in keys) < 8:
        time.sleep(0.01)
    other, name = worker(8)
    ready(name)
    os.killpg(doomed.pid, signal.SIGKILL)
    doomed.wait()
    killed, left = time.time(), 8
    while left and time.time() < killed + patience:
        left = sum(app.backend.client.llen(key) < 2 for key in keys)
        time.sleep(0.01)
    took = time.time() - killed
    stop(other, signal.SIGKILL)
    return {"seconds": took, "left": left}


def main():
    count, pace, seconds, patience = (int(argument) for argument in sys.argv[2:6])
    try:
        told = {"c8": rate(8, count), "c64": rate(64, count), "latency": latency(pace, seconds), "recovery": recovery(patience)}
        print(json.dumps(told))
    finally:
        for process in running:
            if process.poll() is None:
                stop(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
