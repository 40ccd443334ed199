import torch

from audio_ssl.train.late import LateNumber


def test_the_last_number_is_read_and_nothing_before_the_first():
    number = LateNumber()
    assert number.read() == 0.0
    number.put(torch.tensor(2.5))
    assert number.read() == 2.5
    number.put(torch.tensor(0.0))
    assert number.read() == 0.0


class Device(torch.Tensor):
    """A number that says it is on a GPU."""

    device = torch.device("cuda", 0)


class Host:
    """Page-locked memory of one number."""

    def copy_(self, source, *, non_blocking) -> None:
        assert non_blocking
        self.value = float(source)

    def __float__(self) -> float:
        return self.value


def test_on_a_gpu_the_reader_waits_for_the_copy_alone(monkeypatch):
    done = []

    class Event:
        def record(self, stream) -> None:
            done.append(f"record {stream}")

        def synchronize(self) -> None:
            done.append("synchronize")

    def host_memory(_, *, device, pin_memory):
        done.append(f"memory {device} {pin_memory}")
        return Host()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"of {device}")
    monkeypatch.setattr(torch, "empty_like", host_memory)
    number = LateNumber()
    number.put(torch.tensor(3.0).as_subclass(Device))
    assert done == ["memory cpu True", "record of cuda:0"]
    assert number.read() == 3.0
    assert done[2:] == ["synchronize"]
