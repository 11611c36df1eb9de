"""The files that start studies: SLURM for real, the others against schemas and stand-ins."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster
import tiny
import yaml
from in_float64 import assert_equal_runs, begin, surroundings

from gankd_jax.cli import commands
from gankd_jax.cli.config_flag import split_config_words
from gankd_jax.cli.parser import parse_command
from gankd_jax.study import plan, workdir

LAUNCH = tiny.REPO / "launch"
NAME = "teacher-d4-s0"
STEPS = 30
# ml_collections reads a config file by a deprecated call.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tiny.shared(tmp_path_factory)


def script(path: Path, text: str) -> Path:
    """A program of a line or two."""
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


def wait_for(done: Callable[[], object], what: str) -> None:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < 400, what
        time.sleep(0.05)


# SLURM


class Slurm:
    """A cluster's commands."""

    def __init__(self, environment: dict[str, str]):
        self._environment = environment

    def said(self, *words: str, **environment: str) -> str:
        done = subprocess.run(
            words,
            cwd=tiny.REPO,
            env=self._environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, log: Path, *words: str, **environment: str) -> str:
        """A job of launch/slurm.sbatch; its number."""
        flags = ["--parsable", f"--output={log}", "--cpus-per-task=1"]
        split = next(k for k, word in enumerate(words) if word.startswith("--config"))
        script = str(LAUNCH / "slurm.sbatch")
        return self.said("sbatch", *flags, *words[:split], script, *words[split:], **environment)

    def is_over(self, job: str) -> bool:
        return not self.said("squeue", "--noheader", f"--jobs={job}")

    def restarts(self, job: str) -> int:
        found = re.search(r"Restarts=(\d+)", self.said("scontrol", "show", "job", job))
        assert found is not None
        return int(found[1])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    if slurm_cluster.missing_programs():
        pytest.skip(f"no SLURM here: {', '.join(slurm_cluster.missing_programs())} missing")
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield Slurm(environment)


def test_slurm_s_array_shares_a_sweep(slurm, root, tmp_path):
    finished, folder, log = tiny.finished(root), tmp_path / "study", tmp_path / "%a.log"
    gankd = script(tmp_path / "gankd", f'exec {sys.executable} -m gankd_jax "$@"')
    words = [*tiny.flags(), f"--workdir={folder}"]
    surrounded = tiny.environment(root) | {"GANKD": str(gankd)}
    job = slurm.submit(log, "--array=1-2", *words, **surrounded)
    wait_for(lambda: slurm.is_over(job), "the array does not end")
    told = [(tmp_path / f"{k}.log").read_text() for k in (1, 2)]
    for name in ("table.md", "table.csv"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), told
    assert NAME in told[0]
    assert "2 baselines: step" in told[0]
    assert "4 students: step" in told[1] or "2 students: step" in told[1]
    assert "2 baselines: step" not in told[1]


def test_slurm_s_array_stops_the_task_that_is_told_alone(slurm, tmp_path):
    """Also the one whose number is the array's."""
    begun = f'echo "begun $SLURM_ARRAY_TASK_ID $SLURM_JOB_ID" >>{tmp_path}/calls'
    again = '[ -z "${SLURM_RESTART_COUNT:-}" ] || exit 0'
    told = f"trap 'echo stopped $SLURM_ARRAY_TASK_ID >>{tmp_path}/calls; exit 143' TERM"
    gankd = script(tmp_path / "gankd", "\n".join([begun, again, told, "sleep 300 & wait"]))
    job = slurm.submit(tmp_path / "log", "--array=1-2", "--config=a", GANKD=str(gankd))

    def calls() -> list[list[str]]:
        path = tmp_path / "calls"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    wait_for(lambda: len(calls()) == 2, "the tasks do not begin")
    (first,) = [task for _, task, number in calls() if number == job]
    slurm.said("scancel", "--batch", "--signal=TERM", f"{job}_{first}")
    wait_for(lambda: len(calls()) == 4, "it is not queued again")
    assert [call[:2] for call in calls()[2:]] == [["stopped", first], ["begun", first]]
    slurm.said("scancel", job)


def test_slurm_s_two_processes_stopped_twice_and_queued_again_end_as_if_never(
    slurm, root, tmp_path
):
    """Once told ahead of time, as by --signal=B:TERM, and once stopped and requeued by SLURM."""
    changes = {"study__students": (), "study__baselines": (), "training__steps_per_call": 1}
    steps = {"recipes__teacher__steps": STEPS, "training__checkpoint_every": 5}
    words = tiny.flags(**changes, **steps, training__grid_every=0, recipes__teacher__batch_size=8)
    alone = begin(root, 1, "study", *words, f"--workdir={tmp_path / 'alone'}")
    driver = tiny.REPO / "tests" / "in_float64.py"
    gankd = script(tmp_path / "gankd", f'exec {sys.executable} {driver} "$@"')
    surrounded = surroundings(root, 1) | {"GANKD": str(gankd), "PAUSE": "0.3"}
    folder, log = tmp_path / "together", tmp_path / "log"
    words.append(f"--workdir={folder}")
    job = slurm.submit(log, "--ntasks=2", *words, **surrounded)

    def saved() -> int:
        run = plan.find_run(tiny.config(), NAME)
        return max(workdir.checkpoint_steps(folder, run), default=0)

    wait_for(lambda: saved() >= 5, "nothing is saved")
    slurm.said("scancel", "--batch", "--signal=TERM", job)
    wait_for(lambda: slurm.restarts(job) == 1, log.read_text())
    first = saved()
    wait_for(lambda: saved() > first, log.read_text())
    slurm.said("scontrol", "requeue", job)
    wait_for(lambda: slurm.restarts(job) == 2, log.read_text())
    second = saved()
    assert 5 <= first < second < STEPS
    wait_for(lambda: slurm.is_over(job), log.read_text())
    _, errors = alone.communicate(timeout=400)
    assert alone.returncode == 0, errors
    assert_equal_runs(folder / NAME, tmp_path / "alone" / NAME, STEPS)


# One machine


def test_local_sh_gives_each_gpu_a_share(tmp_path):
    gankd = script(tmp_path / "gankd", f'echo "$CUDA_VISIBLE_DEVICES $*" >>{tmp_path}/calls')
    surrounded = os.environ | {"GANKD": str(gankd), "CUDA_VISIBLE_DEVICES": "0,3"}
    command = [LAUNCH / "local.sh", "--config=a b", "--workdir=w"]
    assert subprocess.run(command, env=surrounded, check=False).returncode == 0
    assert sorted((tmp_path / "calls").read_text().splitlines()) == [
        "0 study --config=a b --workdir=w --shard=1/2 --wait=900",
        "3 study --config=a b --workdir=w --shard=2/2 --wait=900",
    ]


def test_local_sh_hands_a_signal_on_and_waits(tmp_path):
    text = f"trap 'sleep 0.5; echo saved >>{tmp_path}/calls; exit 143' TERM\n"
    gankd = script(tmp_path / "gankd", f"{text}echo begun >>{tmp_path}/calls\nsleep 60 & wait")
    surrounded = os.environ | {"GANKD": str(gankd), "CUDA_VISIBLE_DEVICES": "0,1"}
    calls = tmp_path / "calls"
    with subprocess.Popen([LAUNCH / "local.sh", "--workdir=w"], env=surrounded) as process:
        wait_for(lambda: calls.exists() and calls.read_text().count("begun") == 2, "not begun")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    assert calls.read_text().count("saved") == 2


# TPU pods


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["study", "--config=configs/mnist.py", "--config.study.widths=(2, 4)"], True),
        (["data", "prepare", "mnist"], False),
    ],
)
def test_tpu_pod_sh_runs_the_same_words_on_every_host(tmp_path, words, added):
    gcloud = script(tmp_path / "gcloud", f'printf "%s\\0" "$@" >>{tmp_path}/calls')
    surrounded = os.environ | {"PATH": f"{gcloud.parent}:{os.environ['PATH']}"}
    subprocess.run([LAUNCH / "tpu_pod.sh", "pod", "zone", *words], env=surrounded, check=True)
    calls = (tmp_path / "calls").read_text().split("\0")
    assert calls.count("--worker=all") == calls.count("--zone=zone") == 2
    (command,) = [word for word in calls if word.startswith("--command=")]
    text = command.removeprefix("--command=")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    last = shlex.split(text.strip().splitlines()[-1])
    assert last == ["exec", ".venv/bin/gankd", *words, *(["--processes=auto"] if added else [])]


# Kubernetes


def documents() -> dict[str, dict]:
    text = (LAUNCH / "kubernetes.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def jobs() -> list[dict]:
    """The file's Job, and those that its JobSet makes."""
    found = documents()
    made = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": each["name"]},
            **each["template"],
        }
        for each in found["JobSet"]["spec"]["replicatedJobs"]
    ]
    return [found["Job"], *made]


@pytest.mark.parametrize("job", jobs(), ids=lambda job: job["metadata"]["name"])
def test_kubernetes_takes_the_jobs(job):
    schemas = pytest.importorskip("kubernetes_validate", reason="the extra test has it")
    schemas.validate(job, schemas.latest_version(), strict=True)
    wrong = job | {"spec": job["spec"] | {"completion": 3}}
    with pytest.raises(schemas.ValidationError):
        schemas.validate(wrong, schemas.latest_version(), strict=True)


def test_a_jobset_has_the_fields_that_its_definition_names():
    """Its schema comes in no package; these are fields of the definition that JobSet publishes.

    That is jobsets.jobset.x-k8s.io, version v1alpha2.  It also says that a pod's host name is
    JOBSET-REPLICATEDJOB-JOB-POD.SUBDOMAIN, the subdomain being the JobSet's name by default.
    """
    made = documents()["JobSet"]
    assert set(made) == {"apiVersion", "kind", "metadata", "spec"}
    assert made["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert set(made["spec"]) == {"failurePolicy", "replicatedJobs"}
    assert isinstance(made["spec"]["failurePolicy"].pop("maxRestarts"), int)
    assert made["spec"]["failurePolicy"] == {}
    for job in made["spec"]["replicatedJobs"]:
        assert set(job) == {"name", "template"}
        assert set(job["template"]) == {"spec"}


@pytest.mark.parametrize("job", jobs(), ids=lambda job: job["metadata"]["name"])
def test_the_pods_start_gankd_with_flags_that_it_has(job, monkeypatch):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    shell, flag, line = container["command"]
    assert (shell, flag) == ("sh", "-c")
    index = {"JOB_COMPLETION_INDEX": "1", "PATH": os.environ["PATH"]}
    shown = line.replace("exec gankd", "printf '%s\\n'")
    done = subprocess.run(["sh", "-c", shown], env=index, capture_output=True, text=True)
    monkeypatch.chdir(tiny.REPO)
    config, words = split_config_words(done.stdout.split())
    assert config is not None
    args = parse_command([*words, f"--config={config.filename}"])
    assert args.run is commands.run_study
    count = job["spec"]["completions"]
    assert job["spec"]["parallelism"] == count
    if args.coordinator is None:
        assert args.shard == (2, count)
    else:
        name = f"{documents()['JobSet']['metadata']['name']}-{job['metadata']['name']}"
        subdomain = documents()["JobSet"]["metadata"]["name"]
        assert args.coordinator.startswith(f"{name}-0-0.{subdomain}:")
        assert (args.processes, args.process) == (str(count), "1")
