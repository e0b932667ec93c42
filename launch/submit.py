"""Send a run to a Ray cluster through its Jobs API, and follow it.

    python launch/submit.py --address http://HEAD:8265 -- cluster=4x8 train.steps=200
    python launch/submit.py --address http://HEAD:8265 --stop JOB_ID

What stands after ``--`` are Hydra overrides. The exit code is the job's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ROOT = Path(__file__).resolve().parent.parent
EXCLUDED_FOLDERS = (".git", ".venv", "__pycache__", "outputs", "wandb")  # wherever they are
EXCLUDED_FILES = ("*.parquet", "*.jsonl", "*.safetensors", "*.bin", "*.pt", "*.ckpt", "*.log")
PASSED_VARIABLES = ("HF_TOKEN", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY")

# Ray would send SIGTERM and kill after 3 s. SIGINT lets a run end as on Ctrl-C.
STOP_SETTINGS = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}

CONNECT_TIMEOUT_S = 10
SILENCE_TIMEOUT_S = 300  # a log this quiet is asked for again: the connection may be dead
RECONNECT_S = 1
LOST_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60


class SubmitError(Exception):
    """What keeps the job from being submitted, followed or stopped."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a usage message if it makes no sense."""
    parser = argparse.ArgumentParser(
        description="Send a run to a Ray cluster and follow it.",
        epilog="Hydra overrides follow after --, as in: -- cluster=4x8 train.steps=200",
    )
    parser.add_argument("--address", required=True, help="of the Ray dashboard, http://HEAD:8265")
    parser.add_argument("--name", default="rlvr", help="first part of the job id")
    parser.add_argument("--entrypoint", default="python -m rlvr.train", help="what the job runs")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help=f"environment variable of the job; passed unasked: {', '.join(PASSED_VARIABLES)}",
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=0,
        metavar="N",
        help="start the run up to N times more, with train.resume=auto, when it is lost",
    )
    parser.add_argument("--no-wait", action="store_true", help="return once it is submitted")
    parser.add_argument("--stop", metavar="JOB_ID", help="stop this job instead")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides")
    options = parser.parse_args(argv)
    if options.stop and options.overrides:
        parser.error("--stop takes no overrides")
    if options.retries and not any(o.startswith("train.output_dir=") for o in options.overrides):
        parser.error("--retries needs train.output_dir=FOLDER, where the run finds itself again")
    return options


def environment(asked: list[str]) -> dict[str, str]:
    """Variables of the job: ``asked`` as NAME (its value here) or NAME=VALUE, and the usual ones.

    Raises SubmitError for a NAME that has no value here.
    """
    variables = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    for item in asked:
        name, separator, value = item.partition("=")
        if not separator and name not in os.environ:
            raise SubmitError(f"--env {name}: it is not set here. Set it, or say {name}=VALUE.")
        variables[name] = value if separator else os.environ[name]
    return STOP_SETTINGS | variables


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at ``address``; raises SubmitError if there is none."""
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SubmitError(
            f"--address {address}: the address of the Ray dashboard is needed, such as "
            "http://HEAD:8265."
        )
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname, port), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise SubmitError(
            f"nothing answers at {address} ({error}). Is the head up (`ray start --head "
            "--dashboard-host=0.0.0.0`), and may this machine reach its port?"
        ) from error

    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # would win over --address
        os.environ.pop(variable, None)
    token_file = os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" in os.environ or Path(token_file).exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when ray is imported

    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise SubmitError(
            f"{address} asks for another token than this machine's. Copy the head's "
            "~/.ray/auth_token here, or set RAY_AUTH_TOKEN to what it holds."
        ) from error
    except Exception as error:
        raise SubmitError(
            f"{address} is not a Ray dashboard with a job server ({error}). Its port is usually "
            "8265, and the head needs ray[default]."
        ) from error


def largest_files(count: int = 5) -> list[str]:
    """The largest files under the repository that would be sent, with their sizes."""
    sizes = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in EXCLUDED_FOLDERS]
        for path in (Path(folder, name) for name in files):
            if not path.is_symlink() and not any(path.match(p) for p in EXCLUDED_FILES):
                sizes.append((path.stat().st_size, path.relative_to(ROOT)))
    return [f"{path} ({size / 2**20:.1f} MiB)" for size, path in sorted(sizes)[: -count - 1 : -1]]


def submit(client: JobSubmissionClient, options: argparse.Namespace) -> str:
    """Pack the repository, send it, start the job and return its id."""
    again = f"python launch/retry.py {options.retries} " if options.retries else ""
    try:
        return client.submit_job(
            entrypoint=f"{again}{options.entrypoint} {shlex.join(options.overrides)}".strip(),
            submission_id=f"{options.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            runtime_env={
                "working_dir": str(ROOT),
                "excludes": [*EXCLUDED_FOLDERS, *EXCLUDED_FILES],
                "env_vars": environment(options.env),
            },
        )
    except RuntimeError as error:
        reason = str(error)
        if any(sign in reason for sign in ("413", "TooLarge", "exceeds the maximum")):
            raise SubmitError(
                "the repository is too large to send. List what the job does not need in "
                f".rayignore. The largest files: {', '.join(largest_files())}."
            ) from error
        raise SubmitError(f"the cluster refused the job: {reason}") from error


async def follow(client: JobSubmissionClient, job_id: str) -> None:
    """Print the job's log until the job has ended, over as many connections as it takes."""
    printed = 0
    last_contact = time.monotonic()
    while True:
        position = 0
        lines = client.tail_job_logs(job_id)  # always from the start
        try:
            while True:
                text = await asyncio.wait_for(anext(lines), SILENCE_TIMEOUT_S)
                print(text[max(0, printed - position) :], end="", flush=True)
                position += len(text)
                printed = max(printed, position)
        except StopAsyncIteration:
            pass
        except Exception as error:  # whatever broke: the job server says whether the job goes on
            lost = error
        try:
            if client.get_job_status(job_id).is_terminal():
                return
            last_contact = time.monotonic()
        except Exception as error:
            lost = error
        if time.monotonic() - last_contact > LOST_TIMEOUT_S:
            raise SubmitError(
                f"the cluster has not answered for {LOST_TIMEOUT_S} s ({lost}). The job may go on."
            )
        await asyncio.sleep(RECONNECT_S)


def exit_code(client: JobSubmissionClient, job_id: str) -> int:
    """Say how the job ended; its own exit code, 128 + n after signal n, 1 if it never started."""
    job = client.get_job_info(job_id)
    print(f"job {job_id}: {job.status.value.lower()}. {job.message or ''}", file=sys.stderr)
    if job.status.value == "SUCCEEDED":
        return 0
    code = job.driver_exit_code or 1
    return code if code > 0 else 128 - code


def stop(client: JobSubmissionClient, job_id: str) -> None:
    """Stop the job and wait until it has ended."""
    try:
        running = client.stop_job(job_id)
    except RuntimeError as error:
        raise SubmitError(f"no job {job_id} on this cluster ({error})") from error
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not (status := client.get_job_status(job_id)).is_terminal():
        if time.monotonic() > deadline:
            raise SubmitError(f"job {job_id} is still {status.value} after {STOP_TIMEOUT_S} s")
        time.sleep(0.5)
    print(f"job {job_id}: {status.value.lower()}" + ("" if running else " before"))


def main() -> int:
    """Submit, follow or stop; returns the process's exit code."""
    options = arguments()
    try:
        client = connect(options.address)
        if options.stop:
            stop(client, options.stop)
            return 0
        job_id = submit(client, options)
        print(f"job {job_id}", flush=True)
        stop_command = f"python launch/submit.py --address {options.address} --stop {job_id}"
        if options.no_wait:
            print(f"follow it: ray job logs --follow --address {options.address} {job_id}")
            print(f"stop it:   {stop_command}")
            return 0
        try:
            asyncio.run(follow(client, job_id))
        except KeyboardInterrupt:
            print(f"\njob {job_id} goes on. To stop it: {stop_command}", file=sys.stderr)
            return 130
        return exit_code(client, job_id)
    except SubmitError as error:
        print(f"submit: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
        print(f"submit: {options.address} has stopped answering: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
