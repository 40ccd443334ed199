"""How far a step goes, by hand and in the loop."""

import pytest
import torch

from audio_ssl.train import stepper
from audio_ssl.train.loop import train
from audio_ssl.train.memory import peak_memory_gib, told_out_of_memory
from audio_ssl.train.state import Progress
from audio_ssl.train.stepper import Stepper, update_ratio
from tests.unit.train.toy import Collect, Line, Source, make_task, surroundings


def test_the_ratio_is_of_all_tensors_as_one_vector():
    before = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    after = [torch.tensor([3.0, 0.6]), torch.tensor([[4.8]])]
    torch.testing.assert_close(update_ratio(before, after), torch.tensor(1.0 / 5.0))


class Weights(Collect):
    """Remembers the weights at each row too."""

    def __init__(self, module: Line) -> None:
        super().__init__()
        self.module = module
        self.at = [self.all()]
        self.memory = []

    def all(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.module.parameters()])

    def write(self, row) -> None:
        super().write(row)
        self.at.append(self.all())
        self.memory.append(row["device_memory_gib"])


def test_rows_tell_the_ratio_of_their_last_update(tmp_path):
    module = Line()
    sink = Weights(module)
    train(make_task(module, Source([(0, 6)])), Progress(), surroundings(tmp_path / "a", [sink], num_updates=6))
    steps = list(zip(sink.at, sink.at[1:], strict=False))
    ratios = [float((b - a).norm() / a.norm()) for a, b in steps]
    assert [value for _, value in sink.figure("update_ratio")] == pytest.approx(ratios, rel=1e-5)
    assert sink.memory == sorted(sink.memory)
    assert sink.memory[-1] == pytest.approx(peak_memory_gib(torch.device("cpu")), rel=0.1)

    coarse = Collect()
    around = surroundings(tmp_path / "b", [coarse], num_updates=6, log_every=3, save_every=100)
    train(make_task(Line(), Source([(0, 6)])), Progress(), around)
    assert coarse.figure("update_ratio") == [(3, pytest.approx(ratios[2])), (6, pytest.approx(ratios[5]))]


def test_weights_are_copied_for_rows_alone(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(stepper, "update_ratio", lambda before, after: calls.append(len(before)) or torch.zeros(()))
    around = surroundings(tmp_path, [Collect()], num_updates=7, log_every=3, save_every=100)
    train(make_task(Line(), Source([(0, 6)])), Progress(), around)
    assert calls == [2, 2]


def test_a_skipped_update_has_gone_nowhere():
    module = Line()
    module.linear.weight.grad = torch.ones(1, 5)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    told = Stepper().step(optimizer, torch.tensor(torch.inf), is_spike=torch.tensor(False), is_measured=True)
    assert {name: float(value) for name, value in told.items()} == {
        "skipped": 1,
        "searched": 0,
        "spiked": 0,
        "update_ratio": 0,
    }


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_lack_of_memory_names_the_settings_to_change(error):
    with pytest.raises(Exception, match=r"61 s \(data.micro_batch_s\) do not; lower it"), told_out_of_memory(61.0):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes differ"), told_out_of_memory(61.0):
        raise RuntimeError("shapes differ")
