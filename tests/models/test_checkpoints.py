"""Published files, written here in the format of specification 5.2 from tables and random numbers."""

import pickle
import random
from argparse import Namespace

import pytest
import torch

from bnn_lightning.models import create_backbone, load_published
from bnn_lightning.models.published_file import read_published

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
# Steps of 699 epochs: what the published file counts.
STEPS = 272610


def norm(name, channels, generator):
    return {
        f"{name}.weight": torch.rand(channels, generator=generator) + 0.5,
        f"{name}.bias": torch.rand(channels, generator=generator) - 0.5,
        f"{name}.running_mean": torch.randn(channels, generator=generator),
        f"{name}.running_var": torch.rand(channels, generator=generator) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(STEPS),
    }


def resnet20_tensors(num_classes=10, seed=0):
    """The 121 tensors of ResNet-20, names and shapes from the table of the specification."""
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape):
        return 0.05 * torch.randn(*shape, generator=generator)

    tensors = {"conv1.weight": 4 * weight(16, 3, 3, 3), **norm("bn1", 16, generator)}
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in (0, 1, 2):
            before = width // 2 if stage > 1 and block == 0 else width
            name = f"layer{stage}.{block}"
            tensors[f"{name}.conv1.weight"] = weight(width, before, 3, 3)
            tensors |= norm(f"{name}.bn1", width, generator)
            tensors[f"{name}.conv2.weight"] = weight(width, width, 3, 3)
            tensors |= norm(f"{name}.bn2", width, generator)
    tensors |= norm("bn2", 64, generator)
    tensors |= {"linear.weight": 5 * weight(num_classes, 64), "linear.bias": weight(num_classes)}
    return tensors


def published(tensors, **more):
    state = {f"module.{name}": tensor for name, tensor in tensors.items()}
    return {"epoch": 698, "state_dict": state, "best_prec1": torch.tensor(87.1494), **more}


def save(path, content, **options):
    torch.save(content, path, **options)
    return path


def resnet20(**options):
    return create_backbone("resnet20", **{"num_classes": 10, "image_size": 32, "mean": MEAN, "std": STD, **options})


def test_published_resnet20_gives_the_logits_of_the_plain_network(tmp_path, reference):
    tensors = resnet20_tensors()
    assert len(tensors) == 121
    network = resnet20().double()  # before the constants of the normalization are rounded to float32
    report = load_published(network, save(tmp_path / "best-checkpoint.th", published(tensors)))
    assert (report.epoch, round(report.accuracy, 4), report.dead, report.ignored) == (698, 87.1494, {}, ())
    assert set(report.loaded) == set(tensors)
    assert all(name.startswith("normalize.") or name.endswith(".t") for name in report.kept)
    assert network.bn2.num_batches_tracked == STEPS
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    normalized = (images - torch.tensor(MEAN).double()[:, None, None]) / torch.tensor(STD).double()[:, None, None]
    state = {name: tensor.double() for name, tensor in tensors.items()}
    with torch.no_grad():
        expected = reference("resnet20")(state, normalized)
        torch.testing.assert_close(network.eval()(images), expected, rtol=0, atol=1e-9)
    assert expected.std() > 0.1


def test_cuda_tensors_load_on_a_cpu(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        path = save(tmp_path / "cuda.th", published(resnet20_tensors()))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    assert {tensor.device.type for tensor in read_published(path).tensors.values()} == {"cpu"}
    load_published(resnet20(), path)


def test_old_serialisation_and_bare_state_dicts_load(tmp_path):
    tensors = resnet20_tensors()
    old = save(tmp_path / "old.th", published(tensors), _use_new_zipfile_serialization=False)
    bare = save(tmp_path / "bare.pt", tensors)
    for path, epoch in ((old, 698), (bare, None)):
        network = resnet20()
        assert load_published(network, path).epoch == epoch
        assert torch.equal(network.linear.weight, tensors["linear.weight"])


def wrapped(tensors, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "wrap, ignored",
    [
        (lambda net: {"model": {"state_dict": wrapped(net, "module.")}, "args": Namespace(lr=0.1)}, ("args",)),
        (lambda net: {"epoch": 2, "model_state_dict": wrapped(net, "model._orig_mod.")}, ()),
        (lambda net: {"net": net, "optimizer": {"state": {}}}, ("optimizer",)),
        (lambda net: wrapped(net, "student.module."), ()),
        (lambda net: wrapped(net, "module.backbone."), ()),
        (
            lambda net: {"model": wrapped(net, "student.module.") | {"teacher.fc.bias": torch.ones(2)}},
            ("1 tensors of a teacher",),
        ),
        (
            lambda net: {
                "state_dict": wrapped(net, "module.model.student.") | {"module.model.teacher.a": torch.ones(2)}
            },
            ("1 tensors of a teacher",),
        ),
    ],
)
def test_nested_and_prefixed_files_load(tmp_path, wrap, ignored):
    tensors = resnet20_tensors()
    network = resnet20()
    report = load_published(network, save(tmp_path / "a.th", wrap(tensors)))
    assert torch.equal(network.linear.bias, tensors["linear.bias"])
    assert report.ignored == ignored
    assert not report.dead


def test_names_that_are_the_networks_own_stay(tmp_path):
    tensors = {"net.weight": torch.ones(2, 2), "net.bias": torch.ones(2)}
    path = save(tmp_path / "a.th", tensors)
    assert set(read_published(path).tensors) == {"weight", "bias"}
    assert set(read_published(path, tensors).tensors) == set(tensors)


def test_odd_entries_are_clear_errors(tmp_path):
    cyclic = {}
    cyclic["model"] = cyclic
    for content in (cyclic, {"model": {0: torch.ones(1)}}, {"model": {"arch": "x"}, "weights": {"a": torch.ones(1)}}):
        assert_refused(resnet20(), save(tmp_path / "a.th", content), "is no checkpoint of a network: its entry")
    path = save(tmp_path / "b.th", published(resnet20_tensors()) | {"epoch": float("nan")})
    assert read_published(path).epoch is None


def test_who_allows_namespaces_keeps_them_allowed(tmp_path):
    path = save(tmp_path / "a.th", {"args": Namespace(lr=0.1), "net": resnet20_tensors()})
    with torch.serialization.safe_globals([Namespace]):
        read_published(path)
        assert torch.load(path, weights_only=True)["args"].lr == 0.1
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_objects_of_other_classes_name_the_remedy(tmp_path):
    path = save(tmp_path / "a.th", published({}, arch=Payload()))
    assert_refused(resnet20(), path, "read it with torch.load(file, weights_only=False)")


def test_extra_entries_and_dead_tensors_are_named(tmp_path):
    tensors = resnet20_tensors()
    extra = {"layer1.0.conv1.k": torch.tensor([10.0]), "layer1.0.conv1.t": torch.tensor([0.1])}
    path = save(tmp_path / "a.th", published(tensors | extra, optimizer={"state": {}}, arch="resnet20"))
    report = load_published(resnet20(), path)
    assert set(report.dead) == set(extra)
    assert set(report.ignored) == {"optimizer", "arch"}


def test_files_without_counters_load(tmp_path):
    # PyTorch 0.4.0 had none.
    tensors = {k: v for k, v in resnet20_tensors().items() if "num_batches" not in k}
    report = load_published(resnet20(), save(tmp_path / "a.th", published(tensors)))
    assert "bn2.num_batches_tracked" in report.kept


def test_fine_tuning_can_go_on_from_an_import(tmp_path):
    network = resnet20()
    load_published(network, save(tmp_path / "a.th", published(resnet20_tensors())))
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def renamed(network, rules):
    state = {}
    for name, tensor in network.state_dict().items():
        if name.endswith(".t") or name.startswith("normalize."):
            continue
        for ours, theirs in rules:
            name = name.replace(ours, theirs)
        state[name] = tensor
    return state


@pytest.mark.parametrize(
    ("name", "options", "rules", "dead"),
    [
        ("mlp", {"image_size": 28, "in_channels": 1, "width": 16}, [], []),
        ("vgg_small", {"image_size": 32, "width": 4}, [], []),
        ("resnet18", {"image_size": 32, "width": 4}, [], []),
        (
            "resnet18_double_skip",
            {"image_size": 224, "width": 4},
            [("linear.", "fc."), (".shortcut.", ".downsample.")],
            ["bn3.weight", "bn3.bias", "bn3.running_mean", "bn3.running_var", "bn3.num_batches_tracked"],
        ),
    ],
)
def test_other_networks_load_by_ir_nets_names(tmp_path, name, options, rules, dead):
    source, network = (create_backbone(name, num_classes=7, **options) for _ in range(2))
    state = renamed(source, rules) | {key: torch.ones(7) for key in dead}
    report = load_published(network, save(tmp_path / "a.th", published(state)))
    assert sorted(report.dead) == sorted(dead)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in network.state_dict().items())


def assert_refused(network, path, *messages):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_published(network, path)
    for message in messages:
        assert message in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_other_network_names_the_tensors_and_the_network_that_fits(tmp_path):
    path = save(tmp_path / "best.th", published(resnet20_tensors()))
    vgg = create_backbone("vgg_small", num_classes=10, image_size=32, width=4)
    assert_refused(
        vgg,
        path,
        "`" + str(path) + "` does not fit this VGGSmall.",
        "Missing in the file: conv0.weight, bn0.weight",
        "Unknown to the network: layer1.0.conv1.weight",
        "and 1",
        "The file fits `resnet20` with num_classes=10, image_size=32, in_channels=3, width=16.",
    )


def test_other_number_of_classes_is_told_by_shapes(tmp_path):
    path = save(tmp_path / "a.th", published(resnet20_tensors()))
    assert_refused(
        resnet20(num_classes=100),
        path,
        "Of another shape: linear.weight (file (10, 64), network (100, 64)), linear.bias (file (10,), network (100,)).",
        "The file fits `resnet20` with num_classes=10",
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"image_size": 28, "in_channels": 1, "width": 16}),
        ("vgg_small", {"image_size": 64, "width": 4}),
        ("resnet18", {"image_size": 32, "width": 4}),
        ("resnet18_double_skip", {"image_size": 224, "width": 4}),
    ],
)
def test_guess_finds_every_network(tmp_path, name, options):
    source = create_backbone(name, num_classes=7, **options)
    path = save(tmp_path / "a.th", published(renamed(source, [])))
    assert_refused(resnet20(), path, f"The file fits `{name}` with num_classes=7", f"width={options['width']}")


def test_foreign_network_fits_nothing(tmp_path):
    path = save(tmp_path / "a.th", published({"features.0.weight": torch.ones(4, 3, 3, 3)}))
    assert_refused(resnet20(), path, "Unknown to the network: features.0.weight.", "No registered network fits.")
    path = save(tmp_path / "b.th", published({"scale": torch.ones(4)}))
    assert_refused(resnet20(), path, "No registered network fits.")


def test_missing_and_unknown_tensors_of_the_right_network_are_named(tmp_path):
    tensors = resnet20_tensors()
    tensors["layer1.0.extra"] = tensors.pop("layer2.0.bn1.weight")
    path = save(tmp_path / "a.th", published(tensors))
    assert_refused(
        resnet20(),
        path,
        "Missing in the file: layer2.0.bn1.weight.",
        "Unknown to the network: layer1.0.extra.",
        "No registered network fits.",
    )


def test_values_that_are_not_finite_are_damage(tmp_path):
    tensors = resnet20_tensors()
    tensors["bn2.running_var"][3] = float("nan")
    path = save(tmp_path / "a.th", published(tensors))
    assert_refused(resnet20(), path, "is damaged: bn2.running_var hold values that are not finite")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_altered_bytes_are_a_clear_error_or_load(tmp_path, zipped):
    # Bytes of a tensor's values cannot be told from others; whatever else they break has to be a ValueError.
    draw = random.Random(0)
    path = save(tmp_path / "a.th", published({"a": torch.ones(3)}), _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    refused = 0
    for _ in range(200):
        altered = bytearray(content)
        for _ in range(3):
            altered[draw.randrange(len(altered))] = draw.randrange(256)
        path.write_bytes(altered)
        try:
            read_published(path)
        except ValueError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.3, 0.7, 0.99, 0.9999])
def test_truncated_files_are_one_clear_error(tmp_path, zipped, share):
    path = save(tmp_path / "a.th", published(resnet20_tensors()), _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert_refused(resnet20(), path, f"`{path}` (", "is not a checkpoint, is truncated")


def test_files_of_other_kinds_are_refused(tmp_path):
    text = tmp_path / "a.th"
    text.write_text("not a checkpoint\n" * 100)
    assert_refused(resnet20(), text, "is not a checkpoint")
    assert_refused(resnet20(), save(tmp_path / "b.th", torch.ones(3)), "holds Tensor, not named tensors")
    assert_refused(resnet20(), save(tmp_path / "c.th", {"epoch": 3}), "its entry `epoch` is int, no tensor")
    assert_refused(resnet20(), save(tmp_path / "d.th", {}), "has 0 entries")
    lightning = {"pytorch-lightning_version": "2.6.6", "state_dict": {}}
    assert_refused(resnet20(), save(tmp_path / "e.ckpt", lightning), "bnn_lightning.load_task")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        load_published(resnet20(), tmp_path / "none.th")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        load_published(resnet20(), tmp_path)


class Payload:
    def __reduce__(self):
        return (print, ("this code must not run",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    path = save(tmp_path / "a.th", published(resnet20_tensors(), extra=Payload()))
    assert_refused(resnet20(), path, "holds more than tensors and plain values (Unsupported global: GLOBAL print")
    assert "must not run" not in capsys.readouterr().out
