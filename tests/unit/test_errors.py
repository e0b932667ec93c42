"""Expected errors end a program with their own words and status 1, never with a traceback."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from rlvr import errors, report
from rlvr.config import DataConfig, RewardConfig, RunConfig, VerifierConfig
from rlvr.data.dataset import load_dataset
from rlvr.errors import ConfigError, LearnerError, RunError, RunFolderError, for_people
from rlvr.hydra_config import check_overrides, register
from rlvr.loop.reward import check_rewards
from rlvr.loop.run import Session
from rlvr.loop.state import resume_point
from rlvr.loop.tokenizer import load_tokenizer
from rlvr.loop.validate import validated
from rlvr.telemetry.responses import ResponseLog
from rlvr.telemetry.run_folder import RunFolder
from rlvr.verify.answer import answer_pattern
from rlvr.verify.base import module_of


def configuration(folder: Path, model: str = "/nowhere") -> RunConfig:
    (folder / "train.jsonl").write_text('{"problem": "w3 w4", "answer": "5"}\n')
    config = RunConfig()
    config.model.path, config.data.template = model, "plain"
    config.data.train, config.train.steps = [str(folder / "train.jsonl")], 1
    config.train.output_dir = str(folder / "run")
    return config


def used_output_dir(folder, tiny_model):
    """What ``python -m rlvr.train`` does, up to where the first engine would start."""
    config = configuration(folder, tiny_model(True))
    config.data.max_prompt_tokens, config.rollout.max_response_tokens = 64, 64
    RunFolder.create(config.train.output_dir).metrics.write_text('{"step": 1}\n')
    asyncio.run(Session().train(validated(config)))


def output_dir_below_a_file(folder, _):
    (folder / "file").touch()
    RunFolder.create(folder / "file" / "run")


def damaged_metrics(folder, _):
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    report.main([str(folder)])


def no_run(folder, _):
    report.main([str(folder)])


def unknown_plot_format(folder, _):
    row = '{"step": 1, "rollout/reward_mean": 0.5}\n'
    RunFolder.create(folder).metrics.write_text(row)
    report.main([str(folder), "--plot", str(folder / "curves.docx")])


def no_checkpoint(folder, _):
    config = configuration(folder)
    config.train.resume = str(folder)
    resume_point(config)


def no_tokenizer(folder, _):
    load_tokenizer(configuration(folder))


def no_data(folder, tiny_model):
    tokenizer = load_tokenizer(configuration(folder, tiny_model(True)))
    load_dataset([str(folder / "none.jsonl")], DataConfig(template="plain"), tokenizer)


def bad_row(folder, tiny_model):
    tokenizer = load_tokenizer(configuration(folder, tiny_model(True)))
    (folder / "bad.jsonl").write_text("{\n")
    load_dataset([str(folder / "bad.jsonl")], DataConfig(template="plain"), tokenizer)


def unwritable_responses(folder, _):
    (folder / "responses").touch()

    async def write() -> None:
        log = ResponseLog()
        await log.write(folder / "responses" / "step.parquet", 1, [], [])
        log.close()

    asyncio.run(write())


def unwritable_responses_in_a_group(folder, _):
    try:
        unwritable_responses(folder, _)
    except Exception as error:
        raise ExceptionGroup("of a task group", [error]) from None


def impossible(folder, _):
    config = configuration(folder)
    config.model.path, config.rollout.group_size = "./nowhere", 1
    validated(config)


def misspelt(_, __):
    register()
    check_overrides("train", ["model.dtype=blfoat16"])


def no_such_verifier(_, __):
    module_of("mth")


def impossible_pattern(_, __):
    answer_pattern(VerifierConfig(answer_pattern="("))


def impossible_reward(_, __):
    check_rewards(VerifierConfig(rewards=RewardConfig(timeout=float("nan"))))


@pytest.mark.parametrize(
    ("provoke", "words"),
    [
        (used_output_dir, r"folder cannot be used:\ntrain\.output_dir=.* already holds a run\..*"),
        (output_dir_below_a_file, r"folder cannot be used:\ntrain\.output_dir=.* be created: Not"),
        (damaged_metrics, r"metrics\.jsonl, line 2: not JSON.*Repair or delete the line"),
        (no_run, "not a run's folder"),
        (unknown_plot_format, r"--plot .*curves\.docx: .*docx"),
        (no_checkpoint, r"train\.resume: no checkpoint in "),
        (no_tokenizer, r"model\.tokenizer: cannot load '/nowhere'"),
        (no_data, r"data cannot be used:\n.*none\.jsonl"),
        (bad_row, r"1 of 1 rows cannot be used \(invalid_json 1\):\n.*row 1.*on_bad_row=drop"),
        (unwritable_responses, r"run has failed:\n.*could not be written.*log_responses=false"),
        (unwritable_responses_in_a_group, r"run has failed:\n.*could not be written"),
        (impossible, r"configuration cannot run:\n- rollout\.group_size=1.*\n- model\.path"),
        (misspelt, r"cannot run:\nmodel\.dtype=blfoat16: unknown\. Did you mean 'bfloat16'"),
        (no_such_verifier, r"verifier 'mth': no such verifier\. Did you mean 'math'"),
        (impossible_pattern, r"verifier\.answer_pattern"),
        (impossible_reward, r"verifier\.rewards\.timeout"),
    ],
)
def test_an_expected_error_ends_in_its_own_words(provoke, words, tmp_path, tiny_model, capsys):
    with pytest.raises(SystemExit) as ended, for_people():
        provoke(tmp_path, tiny_model)
    [message] = ended.value.args
    assert re.search(words, message, re.DOTALL), message
    assert (err := capsys.readouterr().err).endswith(f"{message}\n") and "Traceback" not in err
    assert ended.value.code == (1 if "run has failed" in words else 2)


def test_an_actors_words_are_told_without_rays_traceback():
    cause = ConfigError("data.template=chat: there is none. Use data.template=plain.")
    wrapped = RayTaskError("start", "Traceback (most recent call last) ...", cause)
    for error in (wrapped, wrapped.as_instanceof_cause()):
        with pytest.raises(SystemExit) as ended, for_people():
            try:
                raise error
            except Exception as error:
                raise LearnerError(f"learner: 'start' failed:\n{error}") from error
        assert ended.value.args == (f"\nThis configuration cannot run:\n{cause}\n",)
    unexpected = LearnerError(
        f"learner: 'update' failed:\n{RayTaskError('update', 'tb', KeyError())}"
    )
    with pytest.raises(SystemExit, match="The run has failed:\nlearner: 'update' failed:"):
        with for_people():
            raise unexpected


def test_another_error_keeps_its_traceback(capsys):
    with pytest.raises(SystemExit) as ended, for_people():
        json.loads("{")
    assert ended.value.code == 1
    assert "Traceback" in (told := capsys.readouterr().err) and "JSONDecodeError" in told


def test_an_interrupt_is_no_failure():
    with pytest.raises(SystemExit, match="Interrupted") as ended, for_people():
        raise KeyboardInterrupt
    assert ended.value.code == 130


def test_every_error_of_the_family_says_what_it_is():
    family = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert RunFolderError in family
    for error in family:
        assert issubclass(error, ConfigError | RunError) and error.__doc__ and error.heading


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["rlvr.report", "/nowhere"], "not a run's folder"),
        (["rlvr.train", "model.dtype=blfoat16"], "Did you mean 'bfloat16'?"),
        (["rlvr.train", "train.steps=1"], "model.path: must be set"),
    ],
)
def test_a_program_that_the_command_line_keeps_from_running_ends_with_status_2(command, words):
    ended = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 2 and words in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
