import contextlib
import dataclasses
import functools
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from attncourse import measure


def ones(*shape):
    return np.ones(shape, np.float32)


def test_peak_bytes_counts_the_temporary_and_not_the_input():
    array = ones(1000, 1000)

    def call(x):
        y = x + 1
        z = y * 2
        del y
        return z.sum()

    assert measure.peak_bytes(call, array) == pytest.approx(2 * array.nbytes, rel=0.01)


def test_peak_bytes_counts_the_output():
    assert measure.peak_bytes(np.zeros, 10**6) == pytest.approx(8e6, rel=0.01)


def test_peak_bytes_leaves_tracing_as_it_was():
    import tracemalloc

    measure.peak_bytes(np.zeros, 10)
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        measure.peak_bytes(np.zeros, 10)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_peak_bytes_stops_tracing_when_the_call_fails():
    import tracemalloc

    with pytest.raises(ZeroDivisionError):
        measure.peak_bytes(lambda: 1 / 0)
    assert not tracemalloc.is_tracing()


def test_peak_bytes_of_torch_on_the_cpu():
    torch = pytest.importorskip("torch")
    q = torch.ones(1, 1, 512, 64)

    def unfused(q):
        return torch.softmax(q @ q.transpose(-1, -2), -1) @ q

    assert measure.peak_bytes(unfused, q) == pytest.approx(2 * 512 * 512 * 4, rel=0.01)
    assert measure.peak_bytes(torch.zeros_like, q) == q.numel() * 4  # no library start-up in it
    assert measure.peak_bytes(lambda x: None, q) == 0


def test_watch_measures_a_block():
    with measure.watch() as seen:
        kept = ones(1000, 1000)
        time.sleep(0.01)
        (kept + 1).sum()
    assert seen.seconds >= 0.01 and seen.cuda_peak_bytes is None
    assert seen.peak_bytes == pytest.approx(2 * kept.nbytes, rel=0.01)


def test_watch_survives_control_c_and_leaves_nothing_on():
    import tracemalloc

    with pytest.raises(KeyboardInterrupt), measure.watch() as seen:
        array = ones(1000, 1000)
        raise KeyboardInterrupt
    assert seen.peak_bytes == pytest.approx(array.nbytes, rel=0.01)
    assert not tracemalloc.is_tracing()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the mark is Linux's")
def test_resident_peak_sees_what_torch_and_numpy_hold():
    size = 64 * 2**20
    grown = measure.resident_peak_bytes(lambda: np.ones(size // 8).sum())
    assert grown == pytest.approx(size, rel=0.1)
    torch = pytest.importorskip("torch")
    grown = measure.resident_peak_bytes(lambda: torch.ones(size // 4).sum())
    assert grown == pytest.approx(size, rel=0.1)
    assert measure.resident_peak_bytes(lambda: None) < 2**20


def test_resident_peak_says_where_it_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setattr(
        measure.memory, "Path", lambda path: tmp_path / "missing" / path.lstrip("/")
    )
    with pytest.raises(NotImplementedError, match="this system gives no peak to read"):
        measure.resident_peak_bytes(lambda: None)


@dataclasses.dataclass
class Holder:
    tensor: object


class Slotted:
    __slots__ = ("tensor",)

    def __init__(self, tensor):
        self.tensor = tensor

    def double(self):
        return self.tensor * 2


def ways_to_hold(torch, tensor):
    """Calls that double a tensor which is not among their arguments, or deep in one."""
    layer = torch.nn.Identity()
    layer.kept = torch.nn.Parameter(tensor, requires_grad=False)
    return {
        "closure": (lambda: tensor * 2, ()),
        "default": (lambda t=tensor: t * 2, ()),
        "partial": (functools.partial(torch.mul, tensor, 2), ()),
        "bound method": (Slotted(tensor).double, ()),
        "slots": (lambda held: held.tensor * 2, (Slotted(tensor),)),
        "dataclass": (lambda held: held.tensor * 2, (Holder(tensor),)),
        "module": (lambda module: module.kept * 2, (layer,)),
        "list of modules": (lambda modules: modules[1].kept * 2, ([print, layer],)),
        "set": (lambda held: next(iter(held)) * 2, ({tensor},)),
        "made inside": (lambda: torch.ones(512, 1024), ()),
    }


@pytest.mark.parametrize(
    "way",
    ["closure", "default", "partial", "bound method", "slots", "dataclass", "module",
     "list of modules", "set", "made inside"],
)  # fmt: skip
def test_peak_bytes_finds_tensors_wherever_they_are_held(way):
    torch = pytest.importorskip("torch")
    tensor = torch.ones(512, 1024)
    function, args = ways_to_hold(torch, tensor)[way]
    assert measure.peak_bytes(function, *args) == pytest.approx(2 * 2**20, rel=0.01)


def test_what_is_loaded_by_the_first_use_of_torch_does_not_count():
    torch = pytest.importorskip("torch")
    held, loaded = torch.ones(32, 1024), []

    def call():
        loaded or loaded.append(bytearray(2**20))
        return held * 2

    assert measure.peak_bytes(call) == pytest.approx(2**17, rel=0.01)


def test_measuring_torch_does_not_load_its_compiler():
    pytest.importorskip("torch")
    code = (
        "import sys, torch; from attncourse import measure; held = torch.ones(512, 1024);"
        "print(measure.peak_bytes(lambda: held * 2), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    n_bytes, loads_compiler = done.stdout.split()
    assert int(n_bytes) == pytest.approx(2 * 2**20, rel=0.01) and loads_compiler == "False"


def test_peak_bytes_of_arrays_beside_a_small_tensor_is_that_of_the_arrays():
    torch = pytest.importorskip("torch")
    small = torch.ones(10)
    held = measure.peak_bytes(lambda: (np.ones(10**6), small + 1))
    assert held == pytest.approx(8e6, rel=0.01)


def test_peak_bytes_inside_peak_bytes_leaves_the_outer_one_right():
    inner = []

    def outer():
        ones(2**20).sum()  # 4 MiB, gone before the inner one begins
        inner.append(measure.peak_bytes(ones, 2**18))
        with measure.watch() as seen:
            inner.append(measure.peak_bytes(ones, 2**17))
            ones(2**19)
        inner.append(seen.peak_bytes)

    with measure.watch() as seen:
        held = measure.peak_bytes(outer)
    assert inner == pytest.approx([2**20, 2**19, 2**21], rel=0.02)
    assert [held, seen.peak_bytes] == pytest.approx([4 * 2**20] * 2, rel=0.02)


def test_peak_bytes_of_tensors_inside_another_is_refused():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(10)

    def outer(tensor):
        return measure.peak_bytes(torch.neg, tensor)

    with pytest.raises(NotImplementedError, match=r"measure\.peak_bytes: .* inside each other"):
        measure.peak_bytes(outer, tensor)
    assert measure.peak_bytes(torch.neg, tensor) == 40  # nothing is left on


def test_peak_bytes_of_what_the_profiler_records_is_refused():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(10)

    def profiled(tensor):
        with torch.autograd.profiler.profile():
            return torch.neg(tensor)

    says = r"measure\.peak_bytes: .* torch's profiler records"
    with pytest.raises(NotImplementedError, match=says):
        measure.peak_bytes(profiled, tensor)
    with (
        torch.autograd.profiler.profile() as outer,
        pytest.raises(NotImplementedError, match=says),
    ):
        measure.peak_bytes(torch.neg, tensor)
    assert outer.kineto_results is not None  # it was not ended
    assert measure.peak_bytes(torch.neg, tensor) == 40


@contextlib.contextmanager
def other_thread(work):
    go, done, end = threading.Event(), threading.Event(), threading.Event()

    def run():
        go.wait()
        work()
        done.set()
        end.wait()

    def let():
        go.set()
        done.wait(10)

    thread = threading.Thread(target=run, name="other", daemon=True)
    thread.start()
    try:
        yield let
    finally:
        go.set()
        end.set()
        thread.join()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs clocks of threads")
@pytest.mark.parametrize("watched", ["peak_bytes", "watch"])
def test_memory_of_another_thread_is_refused(watched):
    says = r"measure\.\w+: the thread 'other' worked at the same time"
    with other_thread(lambda: ones(2**24)) as let, pytest.raises(RuntimeError, match=says):
        if watched == "watch":
            with measure.watch() as seen:
                let()
        else:
            measure.peak_bytes(let)
    if watched == "watch":
        assert seen.seconds > 0


def test_threads_that_wait_and_threads_of_the_call_itself_are_welcome():
    def call():
        threads = [threading.Thread(target=lambda: ones(2**20).sum()) for _ in range(2)]
        for thread in threads:
            thread.start()
            thread.join()

    with other_thread(lambda: None) as let:
        assert measure.peak_bytes(call) == pytest.approx(4 * 2**20, rel=0.02)
        let()


def test_threads_that_have_ended_and_are_still_listed_do_no_harm():
    """Python 3.11 lists a thread for ever that C or `_thread` started; its clock is gone."""
    code = (
        "import _thread, threading, time\n"
        "from attncourse import measure\n"
        "for _ in range(20):\n"
        "    _thread.start_new_thread(threading.current_thread, ())\n"
        "time.sleep(0.2)\n"
        "assert measure.peak_bytes(bytearray, 10**6) >= 10**6\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class FakeGpus:
    """Two GPUs: the first is the current one, the tensors lie on the second."""

    class OutOfMemoryError(RuntimeError):
        pass

    class cuda:
        memory_reserved = staticmethod(lambda device=None: 30)
        memory_allocated = staticmethod(lambda device=None: 10)
        mem_get_info = staticmethod(lambda device=None: (50 if device == "cuda:1" else 1000, 2000))


def test_free_bytes_asks_the_gpu_in_question(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", FakeGpus)
    assert measure.free_bytes("cuda:1") == 50 + 20
    assert measure.free_bytes("cuda:0") == 1000 + 20
    assert measure.free_bytes("cpu") == pytest.approx(measure.free_bytes(), rel=0.2)
    assert measure.free_bytes() > 2000


def test_a_kernel_that_finds_no_room_tells_what_is_free_on_its_own_gpu(monkeypatch):
    pytest.importorskip("triton")
    from attncourse.kernels._parts import tiles

    asked = []
    monkeypatch.setattr(measure, "free_bytes", lambda device: asked.append(device) or 512)
    says = "full: 64.0 MiB asked for scores, 512 B are free: n = 512 would fit"
    room = tiles.room_for("full", "scores", 2**26, lambda free: f"n = {free}", "cuda:1")
    with pytest.raises(tiles.torch.OutOfMemoryError, match=says), room:
        raise RuntimeError("cannot allocate")
    assert asked == ["cuda:1"]


class FakeTensor:
    def __init__(self, place):
        self.device = type("Device", (), {"type": "cuda", "__str__": lambda _: place})()


def test_tensors_on_two_gpus_are_refused(monkeypatch):
    fake = type("torch", (), {"Tensor": FakeTensor})
    monkeypatch.setitem(sys.modules, "torch", fake)
    with pytest.raises(NotImplementedError, match="on one GPU, got cuda:0 and cuda:1"):
        measure.peak_bytes(print, FakeTensor("cuda:1"), [FakeTensor("cuda:0")])


class FakeMemory:
    """The memory of GPUs, of which nothing but the marks is there."""

    Tensor = FakeTensor

    def __init__(self):
        self.cuda, self.order = self, []
        self.now, self.most = {}, {}

    def hold(self, device, n_bytes):
        self.now[device] = self.now.get(device, 0) + n_bytes
        self.most[device] = max(self.most.get(device, 0), self.now[device])

    def is_initialized(self):
        return True

    def synchronize(self, device=None):
        self.order.append("wait")

    def memory_allocated(self, device):
        return self.now.get(str(device), 0)

    def max_memory_allocated(self, device):
        return self.most.get(str(device), 0)

    def reset_peak_memory_stats(self, device):
        self.most[str(device)] = self.now.get(str(device), 0)


@pytest.fixture
def fake_memory(monkeypatch):
    fake = FakeMemory()
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


def test_peak_bytes_on_a_gpu_watches_the_one_of_the_tensors_and_nests(fake_memory):
    inner = []

    def outer(tensor):
        fake_memory.hold("cuda:1", 500)
        fake_memory.hold("cuda:1", -400)
        fake_memory.hold("cuda:0", 9000)
        inner.append(measure.peak_bytes(fake_inner, tensor))
        fake_memory.hold("cuda:1", 50)

    def fake_inner(tensor):
        fake_memory.hold("cuda:1", 30)

    fake_memory.hold("cuda:1", 1000)
    assert measure.peak_bytes(outer, FakeTensor("cuda:1")) == 500
    assert inner == [30]


def test_seconds_waits_for_a_gpu_whose_tensors_are_not_among_the_arguments(fake_memory):
    measure.seconds(lambda: fake_memory.order.append("call"), repeats=2, warmup=1)
    assert fake_memory.order == ["call", *["wait", "call", "wait"] * 2]
