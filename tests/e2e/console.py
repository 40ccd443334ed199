"""The installed console script as tests drive it: a child process, its output, and a model that is small and quick."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SCRIPT = Path(sys.executable).with_name("audio-ssl")
MODEL = [
    "model.preset=tiny_cpu", "model.conv_dims=[16,16,16,16,24,24,32]", "model.dim=48", "model.num_heads=3",
    "model.num_layers=2", "model.ffn_dim=96", "model.pos_conv_groups=4", "model.pos_conv_kernel=8",
]  # fmt: skip
BATCHES = ["data.batch_s=12", "data.micro_batch_s=12", "data.max_s=6"]
# strict, as in most locales of users: a character that cannot be printed must not end in a traceback
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8:strict",
}  # fmt: skip


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def audio_ssl(*args: str | Path, status: int = 0, preexec_fn: Callable[[], None] | None = None) -> str:
    """Run the console script; returns what it printed, both streams."""
    done = subprocess.run(
        [str(SCRIPT), *map(str, args)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False, preexec_fn=preexec_fn,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == status, f"exit status {done.returncode}, not {status}:\n{text}"
    assert "Traceback" not in text, text
    return text
