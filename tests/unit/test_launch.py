"""The launch files: the commands that they build are recorded, and one is really run, by two processes on a CPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from torch.distributed.run import get_args_parser

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioSSLError

ROOT = Path(__file__).parents[2]
SLURM, KUBERNETES = ROOT / "tools/launch/slurm.sbatch", ROOT / "tools/launch/kubernetes.yaml"
JOB = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "8",
}  # fmt: skip
# As the real one does, it answers a SIGTERM of its own by killing what it has started.
SRUN = r"""#!/bin/bash
printf '%s\n' "$@" > "$RECORD/srun"
while [[ $1 == -* ]]; do shift; done
bash -c '{body}' srun "$@" & task=$!
echo $task > "$RECORD/task"
trap 'kill -KILL $task' TERM
wait $task
"""
SCANCEL = r"""#!/bin/bash
echo "$@" >> "$RECORD/scancel"
kill -TERM "$(cat "$RECORD/task")"
"""
SCONTROL = r"""#!/bin/bash
if [[ $1 == show ]]; then echo localhost; echo node2; else echo "$@" >> "$RECORD/scontrol"; fi
"""


@pytest.fixture
def slurm(tmp_path):
    """Starts the job's script with a cluster that is not there; ``body`` is what srun does with the command."""
    (tmp_path / "bin").mkdir()

    def start(*words: str, body: str, **environment: str) -> subprocess.Popen:
        for name, text in (("srun", SRUN.replace("{body}", body)), ("scontrol", SCONTROL), ("scancel", SCANCEL)):
            (tmp_path / "bin" / name).write_text(text)
            (tmp_path / "bin" / name).chmod(0o755)
        path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", str(SLURM), *words],
            env={**os.environ, **JOB, "PATH": path, "RECORD": str(tmp_path), "PYTHONPATH": str(ROOT), **environment},
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    return start


def recorded(folder: Path, name: str) -> list[str]:
    file = folder / name
    return file.read_text().splitlines() if file.exists() else []


def torchrun_options(words: list[str]) -> dict[str, str]:
    """What torchrun itself makes of a command; unknown options end it."""
    parsed = vars(get_args_parser().parse_args(words[words.index("torchrun") + 1 :]))
    return {key: parsed[key] for key in ("nnodes", "nproc_per_node", "rdzv_backend", "rdzv_endpoint", "rdzv_id",
                                         "max_restarts", "training_script", "training_script_args")}  # fmt: skip


def test_the_slurm_script_is_bash():
    subprocess.run(["bash", "-n", str(SLURM)], check=True)


def test_slurm_starts_torchrun_once_a_node_with_the_callers_words(slurm, tmp_path):
    words = ["pretrain", "pretrain/base", "--set", 'data.train=["a b.arrow"]', "--set", "run.dir=runs/x"]
    job = slurm(*words, body="exit 0", SLURM_RESTART_COUNT="3")
    assert job.wait() == 0
    command = recorded(tmp_path, "srun")
    assert command[0] == "--ntasks-per-node=1"
    assert torchrun_options(command) == {
        "nnodes": "1:2", "nproc_per_node": "gpu", "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:24711",
        "rdzv_id": "4711.3", "max_restarts": 3, "training_script": "audio_ssl",
        "training_script_args": [*words, "--resume", "auto"],
    }  # fmt: skip
    assert recorded(tmp_path, "scontrol") == []


@pytest.mark.parametrize(
    ("on_term", "status", "requeues"),
    [("exit 143", 143, True), ("exit 0", 0, False)],
    ids=["it saves and stops", "it was done in that moment"],
)
def test_a_job_that_is_asked_to_end_hands_it_on_and_queues_itself_again(slurm, tmp_path, on_term, status, requeues):
    body = f'trap "touch $RECORD/told; sleep 0.3; {on_term}" TERM; touch $RECORD/runs; while :; do sleep 0.05; done'
    job = slurm("pretrain", "x", body=body)
    while not (tmp_path / "runs").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait() == status
    assert (tmp_path / "told").exists()
    assert recorded(tmp_path, "scancel") == ["--signal=TERM 4711.0"]
    assert recorded(tmp_path, "scontrol") == (["requeue 4711"] if requeues else [])


def test_a_job_that_fails_by_itself_is_not_queued_again(slurm, tmp_path):
    assert slurm("pretrain", "x", body="exit 1").wait() == 1
    assert recorded(tmp_path, "scontrol") == []


def test_without_a_config_the_script_says_how_to_call_it(slurm):
    job = slurm("pretrain", body="exit 0")
    assert "usage: sbatch" in job.communicate()[1]
    assert job.returncode == 2


def test_the_command_that_the_slurm_script_builds_trains(slurm, tmp_path):
    generator = np.random.default_rng(0)
    rows = []
    for i in range(12):
        sf.write(tmp_path / f"{i}.flac", 0.1 * generator.standard_normal(12_000), 16_000)
        rows.append(Utterance(f"u{i}", f"{i}.flac", 0, 12_000, 16_000))
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "speech.arrow")
    settings = [
        "data.train=['speech.arrow']", "run.dir=run", "data.batch_s=2", "data.micro_batch_s=1", "data.max_s=1",
        "data.num_workers=0", "data.engine=threads", "run.device=cpu", "run.precision=fp32", "run.num_updates=3",
        "run.log_every=1", "model.conv_dims=[8,8,8,8,8,8,8]", "model.dim=24", "model.num_heads=2", "model.num_layers=1",
        "model.ffn_dim=24", "model.pos_conv_groups=4",
    ]  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    job = slurm(
        "pretrain", "pretrain/conv_tiny", *words, body='exec "$@"', SLURM_NNODES="1", PROCESSES_PER_NODE="2",
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    _, said = job.communicate(timeout=120)
    assert job.returncode == 0, said
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in metrics if row["split"] == "train"] == [1, 2, 3]
    assert "2 ranks" in said
    assert (tmp_path / "run/model/model.safetensors").is_file()


def kubernetes() -> tuple[dict, dict]:
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all(KUBERNETES.read_text())
    return service, job


def test_kubernetes_pods_meet_at_the_first_of_them():
    service, job = kubernetes()
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert (service["kind"], job["kind"], spec["completionMode"]) == ("Service", "Job", "Indexed")
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    options = torchrun_options(container["command"])
    assert options["rdzv_endpoint"].startswith(f"{name}-0.{pod['subdomain']}:")
    assert options["nnodes"] == f"1:{spec['completions']}"
    assert spec["completions"] == spec["parallelism"]
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy asks for
    assert options["training_script_args"][-2:] == ["--resume", "auto"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_command_for_kubernetes_is_one_that_audio_ssl_takes():
    from audio_ssl.config import PretrainConfig, find_config, load_config

    _, job = kubernetes()
    words = torchrun_options(job["spec"]["template"]["spec"]["containers"][0]["command"])["training_script_args"]
    verb, config, *rest = words
    settings = [value for flag, value in zip(rest[::2], rest[1::2], strict=True) if flag == "--set"]
    assert verb == "pretrain"
    try:
        loaded = load_config(PretrainConfig, find_config(config), settings)
    except AudioSSLError as error:
        pytest.fail(str(error))
    assert str(loaded.run.dir) == "/runs/base"


@pytest.mark.parametrize("file", [SLURM, KUBERNETES], ids=lambda path: path.name)
def test_launch_files_hold_no_secret(file):
    for number, line in enumerate(file.read_text().splitlines(), 1):
        code = line.split("#")[0]
        assigned = re.search(r"(?i)\w*(key|token|secret|password|credential)\w*['\"]?\s*[:=]\s*['\"]?[\w/+]{6,}", code)
        assert not assigned, f"{file.name}:{number}: {line}"
        assert not re.search(r"[A-Za-z0-9+/]{32,}", code), f"{file.name}:{number}: {line}"


def test_kubernetes_takes_credentials_from_a_secret_alone():
    _, job = kubernetes()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert [entry["name"] for entry in container["env"]] == ["AUDIO_SSL_CACHE_DIR"]
    assert [list(entry) for entry in container["envFrom"]] == [["secretRef"]]
