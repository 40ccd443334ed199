"""``python -m audio_ssl``: the same as ``audio-ssl``, for torchrun."""

from audio_ssl.cli.main import run

if __name__ == "__main__":
    run()
