"""Networks and files of larq-zoo: published counts, equal logits, and files that do not fit."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bnn_lightning.deploy import pack
from bnn_lightning.layers import LearnableBias
from bnn_lightning.metrics.conventions import binary_mac_share, size_bytes
from bnn_lightning.metrics.ops import count_ops
from bnn_lightning.models import create_backbone, load_published

h5py = pytest.importorskip("h5py", reason="needs the extra `keras`")
sys.path.insert(0, str(Path(__file__).parents[2]))
FILES = Path(__file__).parent / "larq_zoo"

# `lq.models.summary` of larq-zoo 2.4 at 224 pixels: weights of one bit, products of one bit, products of floats; the
# parameters of its documentation, and what these count beside ours: "frozen" filters and statistics of batch norms
# without parameters (as the summary does), or the running "statistics" of all.
PUBLISHED = {
    "quicknet_small": (11_980_800, 1_156_055_040, 15_941_120, 12_655_688, "frozen"),
    "quicknet": (12_533_760, 1_849_688_064, 29_651_712, 13_234_088, "frozen"),
    "quicknet_large": (22_634_496, 3_699_376_128, 29_651_712, 23_342_248, "frozen"),
    "binarydensenet28": (4_202_496, 3_587_383_296, 202_484_224, 5_150_504, "statistics"),
    "binarydensenet37": (7_593_984, 4_506_808_320, 199_738_368, 8_734_120, "statistics"),
    "binarydensenet45": (12_349_440, 6_430_556_160, 244_103_424, 13_939_240, "statistics"),
    "meliusnet22": (6_119_424, 4_624_220_160, 136_388_608, 6_944_584, "frozen"),
    "binary_alexnet": (61_827_776, 768_512_000, 72_855_552, 61_859_192, "statistics"),
    "binary_resnet_e18": (10_985_472, 1_676_279_808, 137_793_536, 11_699_368, "statistics"),
}
# Parameters of the later table at docs.larq.dev/zoo, which leaves statistics out. Those of BinaryAlexNet have one more
# number a channel of its batch norms, which learn no scale.
DOCUMENTED = {
    "binarydensenet28": 5_131_496,
    "binarydensenet37": 8_702_248,
    "binarydensenet45": 13_889_512,
    "meliusnet22": 6_944_584,
    "binary_alexnet": 61_848_720,
    "binary_resnet_e18": 11_689_640,
}
# MiB of that summary, and share of the products that are binary.
SUMMARY = {
    "quicknet_small": (4.00, 0.9864),
    "quicknet": (4.17, 0.9842),
    "quicknet_large": (5.40, 0.9920),
    "binarydensenet28": (4.04, 0.9466),
    "binarydensenet37": (5.13, 0.9576),
    "binarydensenet45": (7.35, 0.9634),
    "meliusnet22": (3.88, 0.9714),
    "binary_alexnet": (7.45, 0.9134),
    "binary_resnet_e18": (4.00, 0.9240),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_larq_zoos(name):
    weights, products, floats, parameters, beside = PUBLISHED[name]
    with torch.device("meta"):
        network = create_backbone(name, num_classes=1000, image_size=224)
        count = count_ops(network, (3, 224, 224))
    assert (count.binary_weights, count.binary_macs, count.float_macs + count.mixed_macs) == (weights, products, floats)
    buffers = {key: value.numel() for key, value in network.named_buffers()}
    blur = sum(number for key, number in buffers.items() if key.endswith(".weight"))
    # larq's summary counts two numbers of each channel of a batch norm, whatever it learns.
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and not m.affine]
    offsets = sum(m.bias.numel() for m in network.modules() if isinstance(m, LearnableBias))
    plain = sum(2 * m.num_features for m in norms) - offsets
    running = sum(number for key, number in buffers.items() if "running_" in key)
    assert count.parameters + (blur + plain if beside == "frozen" else running) == parameters
    scales = sum(m.num_features for m in network.modules() if isinstance(m, _BatchNorm) and m.weight is None)
    assert count.parameters + scales == DOCUMENTED.get(name, count.parameters + scales)
    mib, share = SUMMARY[name]
    assert binary_mac_share(count) == pytest.approx(share, abs=5e-5)
    assert (size_bytes(count) + 4 * (blur + plain)) / 2**20 == pytest.approx(mib, abs=0.006)


def thin(**options):
    """Return our network of the file that tools/write_larq_zoo.py wrote with larq-zoo."""
    given = {"num_classes": 5, "image_size": 32, "width": 4, "depths": (1, 1, 1, 2), **options}
    return create_backbone("quicknet", **given).eval()


def assert_equal_logits(network, path):
    """Compare logits in float64, which adds up in any order to the same signs; larq's are in the file beside `path`."""
    given = np.load(path.with_suffix(".npz"))
    images, logits = torch.from_numpy(given["images"]).double() / 255, torch.from_numpy(given["logits"])
    with torch.no_grad():
        found = copy.deepcopy(network).double()(images)
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-9 * float(logits.std()))
    assert torch.equal(found.argmax(1), logits.argmax(1))
    return images.float(), logits.float()


def test_a_file_of_larq_zoo_gives_its_logits_in_torch_and_packed():
    network = thin()
    report = load_published(network, FILES / "quicknet_thin.h5")
    images, logits = assert_equal_logits(network, FILES / "quicknet_thin.h5")
    assert set(report.loaded) | set(report.kept) == set(network.state_dict())
    assert all(name.endswith("num_batches_tracked") for name in report.kept)
    with torch.no_grad():
        for found in (network(images), pack(network)(images)):  # in float32: some 3e-6 of their deviation was seen
            torch.testing.assert_close(found, logits, rtol=0, atol=2e-5 * float(logits.std()))


def test_blur_of_a_file_is_the_binomial_filter():
    network = thin()
    before = {key: value.clone() for key, value in network.named_buffers() if key.endswith(".weight")}
    load_published(network, FILES / "quicknet_thin.h5")
    assert len(before) == 3
    assert all(torch.equal(value, network.get_buffer(key)) for key, value in before.items())


def copied(path, change):
    path.write_bytes((FILES / "quicknet_thin.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_numbers_of_layers_count_from_anywhere_and_a_whole_model_holds_its_weights(tmp_path):
    def renumber(file):
        root = file.create_group("model_weights")
        names = []
        for name in reversed([n.decode() if isinstance(n, bytes) else n for n in file.attrs["layer_names"]]):
            kind, _, number = name.rpartition("_")
            number = int(number) + 95 if number.isdigit() else 95
            new = f"{kind if number != 95 else name}_{number}"
            file.move(name, f"model_weights/{new}")
            names.append(new)
        root.attrs["layer_names"] = names
        del file.attrs["layer_names"]

    network = thin()
    load_published(network, copied(tmp_path / "whole.h5", renumber))
    assert_equal_logits(network, FILES / "quicknet_thin.h5")


def drop(file):
    file.attrs["layer_names"] = [
        name for name in file.attrs["layer_names"] if name not in ("quant_dense", b"quant_dense")
    ]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (drop, {}, "0 `quant_dense` for 1"),
        (lambda file: None, {"depths": (1, 1, 1, 1)}, "`quant_conv2d` for"),
        (lambda file: None, {"width": 8}, r"Of another shape: stem\.0\.1\.weight \(file \(1, 3, 3, 3\), network"),
        (lambda file: file.attrs.pop("layer_names"), {}, "no `layer_names`"),
        (lambda file: file.__delitem__("quant_dense"), {}, "truncated or damaged"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(tmp_path, change, options, words):
    network = thin(**options)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        load_published(network, copied(tmp_path / "other.h5", change))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())


def test_other_files_and_networks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ResNet is none of its networks"):
        load_published(create_backbone("resnet20", num_classes=5, image_size=32), FILES / "quicknet_thin.h5")
    cut = tmp_path / "cut.h5"
    cut.write_bytes((FILES / "quicknet_thin.h5").read_bytes()[:5000])
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_published(thin(), cut)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_files_that_larq_zoo_writes_give_its_logits(name, tmp_path):
    pytest.importorskip("larq_zoo", reason="needs the extra `larq` and larq-zoo")
    from tools.write_larq_zoo import maker, write

    path = tmp_path / f"{name}.h5"
    write(maker(name), path)
    network = create_backbone(name, num_classes=1000, image_size=224).eval()
    load_published(network, path)
    assert_equal_logits(network, path)
