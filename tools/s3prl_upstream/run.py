"""s3prl's run_downstream.py with our upstream in its hub: the same options, and ``-u audio_ssl -k MODEL``.

usage:
    python tools/s3prl_upstream/run.py -m train -u audio_ssl -k MODEL -d TASK -c CONFIG -n NAME [...]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))


def register() -> None:
    """Let s3prl start beside this torch, and put ``audio_ssl`` into its hub."""
    from s3prl_upstream.compat import restore_torchaudio
    from s3prl_upstream.hubconf import audio_ssl

    restore_torchaudio()
    # s3prl keeps its own options in its checkpoints, and reads them with torch's default, which lets tensors in alone
    torch.serialization.add_safe_globals([argparse.Namespace])
    from s3prl import hub

    hub.audio_ssl = audio_ssl


if __name__ == "__main__":
    register()
    from s3prl.run_downstream import main

    main()
