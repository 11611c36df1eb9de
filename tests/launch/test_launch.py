"""Launch files: a real SLURM runs its file; schemas and fake programs check the others."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import slurm_cluster
import tiny
import yaml
from in_float64 import assert_equal_runs, make_environment, start_process

from gankd_jax.cli import commands
from gankd_jax.cli.config_flag import split_config_words
from gankd_jax.cli.parser import parse_command
from gankd_jax.study import plan, workdir

LAUNCH = tiny.REPO / "launch"
TEACHER = "teacher-d4-s0"
STEPS = 30
# ml_collections loads config files with a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tiny.session_dir(tmp_path_factory)


def write_script(path: Path, text: str) -> Path:
    """Writes an executable shell script."""
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


def wait_for(condition: Callable[[], object], message: str) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < 400, message
        time.sleep(0.05)


# SLURM


class Slurm:
    """Runs the commands of a SLURM cluster."""

    def __init__(self, environment: dict[str, str]):
        self._environment = environment

    def run_command(self, *command: str, **variables: str) -> str:
        """Runs a command with changes to its environment; returns its output."""
        result = subprocess.run(
            command,
            cwd=tiny.REPO,
            env=self._environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def submit(
        self, log: Path, *arguments: str, sbatch_flags: Sequence[str] = (), **variables: str
    ) -> str:
        """Submits launch/slurm.sbatch with arguments of `gankd study`; returns the job's number."""
        flags = ["--parsable", f"--output={log}", "--cpus-per-task=1", *sbatch_flags]
        script = str(LAUNCH / "slurm.sbatch")
        return self.run_command("sbatch", *flags, script, *arguments, **variables)

    def has_ended(self, job: str) -> bool:
        return not self.run_command("squeue", "--noheader", f"--jobs={job}")

    def count_restarts(self, job: str) -> int:
        match = re.search(r"Restarts=(\d+)", self.run_command("scontrol", "show", "job", job))
        assert match is not None
        return int(match[1])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    if slurm_cluster.missing_programs():
        pytest.skip(f"no SLURM here: {', '.join(slurm_cluster.missing_programs())} missing")
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield Slurm(environment)


@pytest.mark.slow
def test_slurm_array_shares_a_study(slurm, root, tmp_path):
    finished, folder, log = tiny.run_finished_study(root), tmp_path / "study", tmp_path / "%a.log"
    gankd = write_script(tmp_path / "gankd", f'exec {sys.executable} -m gankd_jax "$@"')
    arguments = [*tiny.flags(), f"--workdir={folder}"]
    variables = tiny.environment(root) | {"GANKD": str(gankd)}
    job = slurm.submit(log, *arguments, sbatch_flags=["--array=1-2"], **variables)
    wait_for(lambda: slurm.has_ended(job), "the array does not end")
    logs = [(tmp_path / f"{k}.log").read_text() for k in (1, 2)]
    for name in ("table.md", "table.csv"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), logs
    assert TEACHER in logs[0]
    assert "2 baselines (part 3 of 3): step" in logs[0]
    assert "4 students (part" in logs[1] or "2 students (part" in logs[1]
    assert "2 baselines (part 3 of 3): step" not in logs[1]


@pytest.mark.slow
def test_signal_stops_only_its_task_of_a_slurm_array(slurm, tmp_path):
    """This holds also for the task that has the number of the array."""
    log_start = f'echo "started $SLURM_ARRAY_TASK_ID $SLURM_JOB_ID" >>{tmp_path}/calls'
    exit_if_restarted = '[ -z "${SLURM_RESTART_COUNT:-}" ] || exit 0'
    stop_on_signal = f"trap 'echo stopped $SLURM_ARRAY_TASK_ID >>{tmp_path}/calls; exit 143' TERM"
    gankd = write_script(
        tmp_path / "gankd",
        "\n".join([stop_on_signal, log_start, exit_if_restarted, "sleep 300 & wait"]),
    )
    array = ["--array=1-2"]
    job = slurm.submit(tmp_path / "log", "--config=a", sbatch_flags=array, GANKD=str(gankd))

    def read_calls() -> list[list[str]]:
        path = tmp_path / "calls"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    wait_for(lambda: len(read_calls()) == 2, "the tasks do not start")
    (first,) = [task for _, task, number in read_calls() if number == job]
    slurm.run_command("scancel", "--batch", "--signal=TERM", f"{job}_{first}")
    wait_for(lambda: len(read_calls()) == 4, "the task is not queued again")
    assert [call[:2] for call in read_calls()[2:]] == [["stopped", first], ["started", first]]
    slurm.run_command("scancel", job)


@pytest.mark.slow
def test_slurm_job_of_two_processes_resumes_after_signal_and_requeue(slurm, root, tmp_path):
    """It is stopped once by a signal ahead of time, as of --signal=B:TERM, and once requeued."""
    changes = {"study__students": (), "study__baselines": (), "training__steps_per_call": 1}
    steps = {"recipes__teacher__steps": STEPS, "training__checkpoint_every": 5}
    flags = tiny.flags(**changes, **steps, training__grid_every=0, recipes__teacher__batch_size=8)
    reference = tmp_path / "reference"
    reference_process = start_process(root, 1, "study", *flags, f"--workdir={reference}")
    driver = tiny.REPO / "tests" / "in_float64.py"
    gankd = write_script(tmp_path / "gankd", f'exec {sys.executable} {driver} "$@"')
    variables = make_environment(root, 1) | {"GANKD": str(gankd), "PAUSE": "0.3"}
    folder, log = tmp_path / "study", tmp_path / "log"
    arguments = [*flags, f"--workdir={folder}"]
    job = slurm.submit(log, *arguments, sbatch_flags=["--ntasks=2"], **variables)

    def last_saved_step() -> int:
        run = plan.find_run(tiny.config(), TEACHER)
        return max(workdir.checkpoint_steps(folder, run), default=0)

    wait_for(lambda: last_saved_step() >= 5, "no checkpoint is saved")
    slurm.run_command("scancel", "--batch", "--signal=TERM", job)
    wait_for(lambda: slurm.count_restarts(job) == 1, log.read_text())
    first_stop = last_saved_step()
    wait_for(lambda: last_saved_step() > first_stop, log.read_text())
    slurm.run_command("scontrol", "requeue", job)
    wait_for(lambda: slurm.count_restarts(job) == 2, log.read_text())
    second_stop = last_saved_step()
    assert 5 <= first_stop < second_stop < STEPS
    wait_for(lambda: slurm.has_ended(job), log.read_text())
    _, stderr_text = reference_process.communicate(timeout=400)
    assert reference_process.returncode == 0, stderr_text
    assert_equal_runs(folder / TEACHER, reference / TEACHER, STEPS)


# One machine


def test_local_sh_starts_a_shard_on_each_gpu(tmp_path):
    gankd = write_script(tmp_path / "gankd", f'echo "$CUDA_VISIBLE_DEVICES $*" >>{tmp_path}/calls')
    environment = os.environ | {"GANKD": str(gankd), "CUDA_VISIBLE_DEVICES": "0,3"}
    command = [LAUNCH / "local.sh", "--config=a b", "--workdir=w"]
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert sorted((tmp_path / "calls").read_text().splitlines()) == [
        "0 study --config=a b --workdir=w --shard=1/2 --wait=900",
        "3 study --config=a b --workdir=w --shard=2/2 --wait=900",
    ]


def test_local_sh_forwards_a_signal_and_waits(tmp_path):
    trap = f"trap 'sleep 0.5; echo saved >>{tmp_path}/calls; exit 143' TERM\n"
    gankd = write_script(
        tmp_path / "gankd", f"{trap}echo started >>{tmp_path}/calls\nsleep 60 & wait"
    )
    environment = os.environ | {"GANKD": str(gankd), "CUDA_VISIBLE_DEVICES": "0,1"}
    calls = tmp_path / "calls"
    with subprocess.Popen([LAUNCH / "local.sh", "--workdir=w"], env=environment) as process:
        wait_for(lambda: calls.exists() and calls.read_text().count("started") == 2, "not started")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    assert calls.read_text().count("saved") == 2


# Installing without a network

# A Python that writes down what it is called with, and makes an environment that does the same.
FAKE_PYTHON = """\
echo "$*" >>"$CALLS"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-c "*"%d.%d"*) echo 3.11 ;;
  "-c "*"(3, 11)"*) exit 0 ;;
  "-c "*) exit 1 ;;
esac"""


@pytest.fixture
def run_launch_file(tmp_path) -> Callable[..., tuple[int, str, list[str]]]:
    """Runs a launch file of a copy of the checkout with the Python that writes its calls down."""
    (tmp_path / "checkout").mkdir()
    shutil.copytree(LAUNCH, tmp_path / "checkout" / "launch")
    shutil.copy(tiny.REPO / "pyproject.toml", tmp_path / "checkout")
    calls = tmp_path / "calls"
    for name in ("python3", "python3.12", "python3.13"):
        write_script(tmp_path / name, FAKE_PYTHON)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls)}

    def run(name: str, *words: str) -> tuple[int, str, list[str]]:
        calls.write_text("")
        command = [tmp_path / "checkout" / "launch" / name, *words]
        streams = {"capture_output": True, "text": True}
        result = subprocess.run(command, env=environment, cwd=tmp_path, check=False, **streams)
        return result.returncode, result.stderr, calls.read_text().splitlines()

    return run


def test_wheels_are_downloaded_for_the_machine_that_is_named(run_launch_file, tmp_path):
    status, stderr, calls = run_launch_file("wheels", "w", "--python=3.12", "--gpu", "test")
    assert (status, stderr) == (0, "")
    package, references = (call for call in calls if " download " in call)
    for call in (package, references):
        assert f"--dest {tmp_path / 'w'} " in call
        assert "--python-version 3.12 " in call
        assert f"manylinux_2_28_{os.uname().machine} " in call
        assert "--constraint launch/constraints.txt " in call
    assert " .[cuda,test] pip setuptools" in package
    assert "--no-deps --requirement launch/references.txt" in references
    assert (tmp_path / "w" / "python-version").read_text() == "3.12\n"
    status, _, calls = run_launch_file("wheels", "w")
    (package,) = (call for call in calls if " download " in call)
    assert (status, " . pip setuptools" in package) == (0, True)
    assert (tmp_path / "w" / "python-version").read_text() == "3.11\n"


def test_an_offline_installation_asks_no_index(run_launch_file, tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "python-version").write_text("3.11\n")
    status, stderr, calls = run_launch_file("install", "--offline=w", "export")
    assert (status, stderr) == (0, "launch/install: installing into .venv\n")
    installs = [call for call in calls if call.startswith("-m pip install")]
    assert [call.split()[3:5] for call in installs] == [
        ["--upgrade", "pip"],
        ["--editable", ".[export]"],
    ]
    for call in installs:
        assert f" --no-index --find-links {tmp_path / 'w'} " in call
    assert run_launch_file("install", "--offline=w", "export")[2] == calls[:1]  # it is up to date


def test_an_installation_from_before_the_gpu_gets_the_cuda_build(run_launch_file, tmp_path):
    def installed_packages() -> list[str]:
        status, _, calls = run_launch_file("install")
        assert status == 0
        return [call.split()[4] for call in calls if call.startswith("-m pip install --editable")]

    assert installed_packages() == ["."]
    assert installed_packages() == []
    write_script(tmp_path / "nvidia-smi", "exit 0")
    assert installed_packages() == [".[cuda]"]
    assert installed_packages() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wheels"], "wheels: needs the folder to fill"),
        (["wheels", "w", "--pyton=3.12"], "wheels: unknown flag --pyton=3.12"),
        (["install", "--offline=nowhere"], "install: --offline=nowhere is no folder that launch"),
        (["install", "--offline=launch"], "install: --offline=launch is no folder that launch"),
        (["install", "--online"], "install: unknown flag --online"),
    ],
)
def test_mistakes_are_told_in_one_line(run_launch_file, tmp_path, words, message):
    (tmp_path / "launch").mkdir()
    status, stderr, calls = run_launch_file(*words)
    assert (status, calls) == (2, [])
    assert stderr.startswith(f"launch/{message}")
    assert stderr.count("\n") == 1


def test_wheels_for_another_python_are_refused(run_launch_file, tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "python-version").write_text("3.12\n")
    status, stderr, _ = run_launch_file("install", "--offline=w")
    assert status == 2
    assert stderr.startswith("launch/install: needs Python 3.12 with venv")


# TPU pods


@pytest.mark.parametrize(
    ("arguments", "adds_processes"),
    [
        (["study", "--config=configs/mnist.py", "--config.study.widths=(2, 4)"], True),
        (["data", "prepare", "mnist"], False),
    ],
)
@pytest.mark.slow
def test_tpu_pod_sh_runs_the_same_command_on_every_host(tmp_path, arguments, adds_processes):
    gcloud = write_script(tmp_path / "gcloud", f'printf "%s\\0" "$@" >>{tmp_path}/calls')
    environment = os.environ | {"PATH": f"{gcloud.parent}:{os.environ['PATH']}"}
    subprocess.run([LAUNCH / "tpu_pod.sh", "pod", "zone", *arguments], env=environment, check=True)
    calls = (tmp_path / "calls").read_text().split("\0")
    assert calls.count("--worker=all") == calls.count("--zone=zone") == 2
    (command,) = [word for word in calls if word.startswith("--command=")]
    text = command.removeprefix("--command=")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert [line.strip() for line in text.splitlines() if "install" in line] == [
        "launch/install tpu"  # not jax[tpu], whose compiler ends itself on v4 and v5p
    ]
    last_command = shlex.split(text.strip().splitlines()[-1])
    added_flags = ["--processes=auto"] if adds_processes else []
    assert last_command == ["exec", ".venv/bin/gankd", *arguments, *added_flags]


# Kubernetes


def load_documents() -> dict[str, dict]:
    """Loads the documents of launch/kubernetes.yaml by kind."""
    text = (LAUNCH / "kubernetes.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def list_jobs() -> list[dict]:
    """Lists the file's Job and the jobs of its JobSet."""
    documents = load_documents()
    jobset_jobs = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": replicated_job["name"]},
            **replicated_job["template"],
        }
        for replicated_job in documents["JobSet"]["spec"]["replicatedJobs"]
    ]
    return [documents["Job"], *jobset_jobs]


@pytest.mark.parametrize("job", list_jobs(), ids=lambda job: job["metadata"]["name"])
def test_jobs_match_the_schema_of_kubernetes(job):
    schemas = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes_validate is not installed"
    )
    schemas.validate(job, schemas.latest_version(), strict=True)
    invalid_job = job | {"spec": job["spec"] | {"completion": 3}}
    with pytest.raises(schemas.ValidationError):
        schemas.validate(invalid_job, schemas.latest_version(), strict=True)


def test_jobset_uses_only_fields_of_its_definition():
    """No package has the schema, so the test lists fields of the definition that JobSet publishes.

    That is jobsets.jobset.x-k8s.io, version v1alpha2.  It also says that a pod's host name is
    JOBSET-REPLICATEDJOB-JOB-POD.SUBDOMAIN; the subdomain defaults to the JobSet's name.
    """
    jobset = load_documents()["JobSet"]
    assert set(jobset) == {"apiVersion", "kind", "metadata", "spec"}
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert set(jobset["spec"]) == {"failurePolicy", "replicatedJobs"}
    assert isinstance(jobset["spec"]["failurePolicy"].pop("maxRestarts"), int)
    assert jobset["spec"]["failurePolicy"] == {}
    for job in jobset["spec"]["replicatedJobs"]:
        assert set(job) == {"name", "template"}
        assert set(job["template"]) == {"spec"}


@pytest.mark.parametrize("job", list_jobs(), ids=lambda job: job["metadata"]["name"])
def test_pods_start_gankd_with_valid_flags(job, monkeypatch):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    shell, flag, line = container["command"]
    assert (shell, flag) == ("sh", "-c")
    variables = {"JOB_COMPLETION_INDEX": "1", "PATH": os.environ["PATH"]}
    print_arguments = line.replace("exec gankd", "printf '%s\\n'")
    result = subprocess.run(
        ["sh", "-c", print_arguments], env=variables, capture_output=True, text=True
    )
    monkeypatch.chdir(tiny.REPO)
    config, arguments = split_config_words(result.stdout.split())
    assert config is not None
    args = parse_command([*arguments, f"--config={config.filename}"])
    assert args.run is commands.run_study
    count = job["spec"]["completions"]
    assert job["spec"]["parallelism"] == count
    if args.coordinator is None:
        assert args.shard == (2, count)
    else:
        name = f"{load_documents()['JobSet']['metadata']['name']}-{job['metadata']['name']}"
        subdomain = load_documents()["JobSet"]["metadata"]["name"]
        assert args.coordinator.startswith(f"{name}-0-0.{subdomain}:")
        assert (args.processes, args.process) == (str(count), "1")
