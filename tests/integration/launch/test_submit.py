"""launch/submit.py against a real Ray head, with a small repository in place of this one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

SUBMIT = Path(__file__).parents[3] / "launch" / "submit.py"

TOKEN = uuid.uuid4().hex

PROGRAM = """
import os, ray, sys
print(sorted(os.path.join(d, f)[2:] for d, _, files in os.walk(".") for f in files))
print(sys.argv[1:])
ray.init(log_to_driver=False)
colours = ray.remote(lambda: (os.environ["COLOUR"], __import__("colours.red").red.NAME))
print(*ray.get(colours.remote()), os.environ["HF_TOKEN"], os.environ["SHAPE"])
sys.exit(7)
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def folder():
    path = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: it holds Unix sockets
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def head(folder):
    """The dashboard's address of a head that shares nothing with another Ray on this machine."""
    port, dashboard, client, agent = free_ports(4)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--num-cpus=2", "--disable-usage-stats", f"--temp-dir={folder}"]
    command += [f"--port={port}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += ["--include-dashboard=true", "--object-store-memory=100000000"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["RAY_AUTH_TOKEN"] = TOKEN
    log = Path(folder, "head.log").open("w+")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", dashboard), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, Path(log.name).read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        process.terminate()
        process.wait(timeout=120)
        log.close()


@pytest.fixture
def repository(tmp_path):
    """Code that is to be sent beside data and environments that are not."""
    for name in (
        "rlvr/data/stream.py",
        "conf/train.yaml",
        ".venv/lib/module.py",
        ".git/config",
        "outputs/run/metrics.jsonl",
        "wandb/run.wandb",
        "local/train.parquet",
        "local/eval.jsonl",
        "local/model.safetensors",
        "ignored/file.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / ".gitignore").write_text("ignored/\n")
    (tmp_path / "launch").mkdir()
    shutil.copy(SUBMIT, tmp_path / "launch")
    return tmp_path


def start(repository: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "launch/submit.py", *arguments],
        cwd=repository,
        env=os.environ | {"RAY_AUTH_TOKEN": TOKEN} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def submit(repository: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    process = start(repository, *arguments, **variables)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def test_a_job_gets_the_code_the_overrides_and_the_variables(head, repository):
    (repository / "program.py").write_text(PROGRAM)
    (repository / "colours").mkdir()
    (repository / "colours" / "red.py").write_text("NAME = 'scarlet'")
    code, out, err = submit(
        repository,
        *("--address", head, "--name", "listing", "--entrypoint", "python program.py"),
        *("--env", "COLOUR", "--env", "SHAPE=round"),
        *("--", "train.steps=2", "data.plain_template=it's {problem}", "~credit"),
        HF_TOKEN="secret",
        COLOUR="red",
        RAY_ADDRESS="http://nowhere:1",
    )
    assert code == 7, err
    assert "failed" in err
    first, *log = out.splitlines()
    assert re.fullmatch(r"job listing-\d{8}-\d{6}", first)
    sent = [
        ".gitignore",
        "colours/red.py",
        "conf/train.yaml",
        "launch/submit.py",
        "program.py",
        "rlvr/data/stream.py",
    ]
    assert str(sent) in log
    assert str(["train.steps=2", "data.plain_template=it's {problem}", "~credit"]) in out
    assert "red scarlet secret round" in log


def test_a_job_is_stopped_as_by_ctrl_c(head, repository):
    (repository / "program.py").write_text(
        "import time\nprint('waiting', flush=True)\ntry:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(4)\n    print('ended in order', flush=True)\n"
    )
    at = ("--address", head)
    follower = start(repository, *at, "--entrypoint", "python program.py")
    assert follower.stdout and follower.stderr
    job_id = follower.stdout.readline().split()[1]
    while "waiting" not in follower.stdout.readline():
        assert follower.poll() is None
    code, out, err = submit(repository, *at, "--stop", job_id)
    assert (code, out) == (0, f"job {job_id}: stopped\n"), err
    rest, err = follower.communicate(timeout=200)
    assert "ended in order" in rest
    assert follower.returncode != 0 and "stopped" in err
    assert submit(repository, *at, "--stop", job_id)[1] == f"job {job_id}: stopped before\n"


def test_a_run_that_was_killed_is_started_again(head, repository):
    shutil.copy(SUBMIT.with_name("retry.py"), repository / "launch")
    (repository / "program.py").write_text(
        "import os, signal, sys\nprint(sys.argv[1:], flush=True)\n"
        "if 'train.resume=auto' not in sys.argv:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    folder = "train.output_dir=/nowhere"
    at = ("--address", head, "--entrypoint", "python program.py", "--retries", "1")
    code, out, err = submit(repository, *at, "--", folder)
    assert code == 0, out + err
    told = "retry: the run was killed by signal 9. It goes on from its last checkpoint (1 of 1)."
    assert [str([folder]), told, str([folder, "train.resume=auto"])] == out.splitlines()[-3:]


def test_a_run_that_names_no_cluster_does_not_join_one_that_is_here(head, folder):
    program = (
        "import ray; from rlvr.config import RunConfig; from rlvr.loop.cluster import connect; "
        "connect(RunConfig()); print(len(ray.nodes()), ray.cluster_resources()['CPU'])"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": folder}  # where ray.init() looks for a cluster
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["1", f"{float(max(os.cpu_count(), 3))}"]


def test_ctrl_c_ends_the_following_and_not_the_job(head, repository):
    (repository / "program.py").write_text(
        "import time\nprint('waiting', flush=True)\ntime.sleep(60)\n"
    )
    at = ("--address", head)
    follower = start(repository, *at, "--entrypoint", "python program.py")
    assert follower.stdout
    job_id = follower.stdout.readline().split()[1]
    while "waiting" not in follower.stdout.readline():
        assert follower.poll() is None
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=200)
    assert follower.returncode == 130
    assert f"--stop {job_id}" in err and "Traceback" not in err
    assert submit(repository, *at, "--stop", job_id)[1] == f"job {job_id}: stopped\n"


def test_a_package_that_is_too_large_names_its_largest_files(head, repository):
    (repository / "weights.dat").write_bytes(os.urandom(110 * 2**20))
    code, out, err = submit(repository, "--address", head, "--no-wait")
    assert (code, out) == (2, "")
    assert "too large" in err and "weights.dat (110.0 MiB)" in err and ".rayignore" in err


def test_another_token_than_the_heads_is_reported(head, repository):
    code, _, err = submit(repository, "--address", head, RAY_AUTH_TOKEN="guessed")
    assert code == 2 and "RAY_AUTH_TOKEN" in err and "Traceback" not in err


def test_an_unknown_job_cannot_be_stopped(head, repository):
    code, _, err = submit(repository, "--address", head, "--stop", "nobody")
    assert code == 2 and "no job nobody" in err


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_an_address_that_is_no_dashboard_is_refused(repository, address):
    code, _, err = submit(repository, "--address", address)
    assert code == 2 and "http://HEAD:8265" in err


def test_an_address_where_nothing_answers_is_reported_at_once(repository):
    [port] = free_ports(1)
    code, _, err = submit(repository, "--address", f"http://127.0.0.1:{port}")
    assert code == 2 and "nothing answers" in err and "Traceback" not in err
