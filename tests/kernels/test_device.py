import pickle

from ntk_dist.kernels.device import describe_devices, device_kind


def test_the_kind_is_that_of_the_devices_found():
    assert device_kind() in {"cpu", "gpu", "tpu"}
    assert all(text.split()[0] == device_kind() for text in describe_devices())
    assert describe_devices()


def test_a_worker_can_be_asked_for_its_kind():
    assert pickle.loads(pickle.dumps(device_kind))(0) == device_kind()
