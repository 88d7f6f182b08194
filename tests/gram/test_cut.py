from ntk_dist import stax
from ntk_dist.gram.cut import CACHE_BYTES, split_block, sub_batch_bytes
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.settings import get_settings

CONV = stax.serial(
    stax.Conv(1, (3, 3), padding="SAME"), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1)
).layer
SHAPE = (4, 4, 2)


def test_threads_without_room_stay_idle_and_the_cut_stays(monkeypatch):
    kernel = Kernel(CONV, ("ntk",), "float64")
    budget = kernel.working_bytes(SHAPE, 9, 9, 8)
    splits = []
    for threads in ("1", "2", "9"):
        monkeypatch.setenv("NTK_DIST_THREADS", threads)
        get_settings.cache_clear()
        splits.append(split_block(kernel, SHAPE, 9, 9, max_bytes=budget, square=False))
        assert splits[-1].working_bytes <= budget
    assert [s.threads for s in splits] == [1, 2, 8]
    assert {(s.rows1, s.rows2) for s in splits} == {(9, 9)}


def test_threads_are_not_counted_down_one_by_one(monkeypatch):
    kernel, asked = Kernel(CONV, ("ntk",), "float64"), []
    budget = kernel.working_bytes(SHAPE, 9, 9, 700)
    assert kernel.working_bytes(SHAPE, 9, 9, 701) > budget
    monkeypatch.setenv("NTK_DIST_THREADS", "4096")
    get_settings.cache_clear()
    plain = Kernel.working_bytes
    monkeypatch.setattr(Kernel, "working_bytes", lambda *a: asked.append(a) or plain(*a))
    assert split_block(kernel, SHAPE, 9, 9, max_bytes=budget, square=False).threads == 700
    assert len(asked) < 30


def test_sub_batches_fit_the_cache_of_a_cpu_and_fill_an_accelerator():
    for small in (1, CACHE_BYTES):
        assert {sub_batch_bytes(device, small) for device in ("cpu", "gpu", "tpu")} == {small}
    large = CACHE_BYTES + 1
    assert sub_batch_bytes("cpu", large) == CACHE_BYTES
    assert sub_batch_bytes("gpu", large) == sub_batch_bytes("tpu", large) == large
