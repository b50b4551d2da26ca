"""Pack the network of a checkpoint, compare it on real images, and write it."""

import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import LightningModule, seed_everything
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

import bnn_lightning
from bnn_lightning.cli.build import build_datamodule, build_trainer
from bnn_lightning.cli.checkpoint import network_file
from bnn_lightning.cli.checks import check_data, check_devices
from bnn_lightning.cli.errors import UserError
from bnn_lightning.cli.launch import refuse_missing_options
from bnn_lightning.cli.noise import silence
from bnn_lightning.cli.opened import Opened, check_class_names, check_images, check_labels, open_checkpoint
from bnn_lightning.cli.out_file import check_out, check_out_folder, unwritten, written
from bnn_lightning.cli.schema import ExportSettings, plain_values, read_settings
from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy.export.c99 import to_c99
from bnn_lightning.deploy.export.c99_text import check_name
from bnn_lightning.deploy.export.onnx import first_line, write_onnx
from bnn_lightning.deploy.export.web import FILES, WebError, check_folder, write_web
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.frontend.pack import PackedNetwork, example_images, pack
from bnn_lightning.deploy.ir.graph import GraphError
from bnn_lightning.deploy.runtime.network import LoadedNetwork, load
from bnn_lightning.deploy.runtime.save import FileSizes, save
from bnn_lightning.deploy.validate.baselines import OnnxNetwork
from bnn_lightning.deploy.validate.parity import Comparison, Parity
from bnn_lightning.zoo.files import is_name
from bnn_lightning.zoo.receipts import PREFIX

_SUFFIXES = {"packed": ".bnn", "torch": ".pt2", "onnx": ".onnx", "c": ".c", "web": ".web"}


# Errors that torch.export raises, beside its own, where Python looks at values.
_UNTRACEABLE = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class _Compare(LightningModule):
    def __init__(self, model: nn.Module, packed: nn.Module, margin: float, max_drop: float | None) -> None:
        super().__init__()
        ours = isinstance(packed, PackedNetwork | LoadedNetwork)
        self.comparison = Comparison(model, packed, margin=margin, max_drop=max_drop, layers=ours, rounds=not ours)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.comparison.update(*batch)


def write(config: DictConfig) -> int:
    """Export a checkpoint, print what was done, and return the bytes of the file.

    Args:
        config: As composed by Hydra from `export.yaml`.

    Raises:
        UserError: A checkpoint that cannot be read or is not binary, missing data, or a packed network that disagrees.
    """
    settings = read_settings(ExportSettings, config)
    silence()
    if not 0 <= settings.margin < float("inf"):
        raise UserError(f"`margin` must be a number from 0 on, got {settings.margin}.")
    if not 0 <= settings.max_drop <= 100:
        raise UserError(f"`max_drop` must lie between 0 and 100 percentage points, got {settings.max_drop}.")
    out = _out(settings)
    trainer = plain_values(config.trainer)
    check_devices(trainer)
    seed_everything(settings.seed, workers=True, verbose=False)
    refuse_missing_options()
    opened = open_checkpoint(settings.ckpt, config, verb="export", trust=settings.trust)
    ckpt, backbone = opened.path, opened.task.backbone.eval()
    datamodule = build_datamodule(opened.data, trust=settings.trust)
    check_labels(backbone, datamodule, ckpt)
    check_class_names(opened.class_names, datamodule, opened.path)
    check_images(backbone, datamodule, ckpt)
    if settings.format == "web" and getattr(datamodule, "preparation", None) is None:
        raise UserError(f"a web page prepares pictures itself: {type(datamodule).__name__} needs a `preparation`.")
    if settings.format == "onnx":
        compare = partial(_compare, backbone, datamodule=datamodule, trainer=trainer, settings=settings)
        return _write_onnx(backbone, out, compare, precise=settings.precise)
    try:
        packed = pack(backbone)
    except ValueError as error:
        raise UserError(f"`{ckpt}` cannot be packed: {error}") from error
    print(f"packed: {packed.report}", flush=True)
    # What users will run: the file as it is loaded, which adds in another order than the module.
    compared: nn.Module = packed if settings.format == "torch" else _stored(packed, datamodule, settings)
    parity = _compare(backbone, compared, datamodule=datamodule, trainer=trainer, settings=settings)
    print(parity, flush=True)
    _refuse_faults(parity, out, "the packed network")
    if settings.format == "torch":
        return _write_torch(packed, backbone, out)
    info = describe(opened.config, datamodule, {"checkpoint_sha256": digest(ckpt), "parity": _figures(parity)})
    if settings.format == "web":
        return _write_web(packed, out, info, settings)
    return _write_c(packed, out, info) if settings.format == "c" else _write_packed(packed, out, info, settings)


def _refuse_faults(parity: Parity, out: Path, who: str) -> None:
    if parity.faults:
        hangs = parity.others and parity.max_drop is None
        remedy = " A class may hang on rounding: `margin=` accepts larger margins." if hangs else ""
        raise UserError(f"`{out}` was not written, {who} disagrees: {' '.join(parity.faults[:3])}{remedy}")


def _write_packed(packed: PackedNetwork, out: Path, info: PackedInfo, settings: ExportSettings) -> int:
    sizes = _save(packed, out, info, settings)
    load(out)
    _print_sizes(out, sizes)
    return sizes.total


def _save(packed: PackedNetwork, path: Path, info: PackedInfo, settings: ExportSettings) -> FileSizes:
    try:
        return save(packed, path, info, rest=settings.rest, stem=settings.stem)  # type: ignore[arg-type]
    except GraphError as error:
        raise UserError(f"`{settings.out or path}` was not written: {error}") from error
    except OSError as error:
        raise unwritten(path, "out", error) from error


def _write_web(packed: PackedNetwork, out: Path, info: PackedInfo, settings: ExportSettings) -> int:
    try:
        with tempfile.TemporaryDirectory() as folder:
            _save(packed, Path(folder, "model.bnn"), info, settings)
            size = write_web(Path(folder, "model.bnn"), out)
    except WebError as error:
        raise UserError(f"`{out}` was not written: {error}") from error
    except OSError as error:
        raise unwritten(out, "out", error) from error
    print(f"written: {out}/index.html, bnn.wasm and model.bnn ({size:,} bytes), for any static web server")
    print(f"next:\n  python -m http.server -d {out}    # then open http://localhost:8000")
    return size


def _write_c(packed: PackedNetwork, out: Path, info: PackedInfo) -> int:
    try:
        with tempfile.TemporaryDirectory() as folder:
            save(packed, Path(folder, "net.bnn"), info)
            text = to_c99(Path(folder, "net.bnn"), out.stem)
    except ValueError as error:
        raise UserError(f"`{out}` was not written: {error}") from error
    header = out.with_suffix(".h")
    with written(out) as source, written(header) as declarations:
        source.write_text(text.source, encoding="utf-8")
        declarations.write_text(text.header, encoding="utf-8")
    print(f"written: {out} and {header}: C99, void {out.stem}_logits(...), int {out.stem}_classify(...)")
    print(f"flash:   {text.flash:,} bytes of constants\nram:     {text.ram:,} bytes")
    return out.stat().st_size


def _write_torch(packed: PackedNetwork, backbone: nn.Module, out: Path) -> int:
    images = example_images(backbone, 2)
    try:
        with written(out) as made:
            program = torch.export.export(packed, (images,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
            torch.export.save(program, made)
            with torch.no_grad():
                same = torch.equal(torch.export.load(made).module()(images), packed(images))
            if not same:
                raise UserError(
                    f"`{out}` was not written: the program that torch exports gives other logits than the network."
                )
    except (*_UNTRACEABLE, TorchDynamoException) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"`{out}` was not written, torch cannot export the network: {first_line(error)}") from error
    remarks = "images in [0, 1]; import bnn_lightning.deploy.frontend.torch_library before torch.export.load"
    print(f"written: {out} ({out.stat().st_size:,} bytes; {remarks})")
    return out.stat().st_size


def _write_onnx(backbone: nn.Module, out: Path, compare: Callable[[nn.Module], Parity], *, precise: bool) -> int:
    """Write ONNX; where onnxruntime is installed, only if it computes what the network does."""
    try:
        with written(out) as made:
            write_onnx(backbone, made, precise=precise)
            _compare_onnx(made, out, compare)
    except (ValueError, ModuleNotFoundError) as error:
        raise error if isinstance(error, UserError) else UserError(f"`{out}` was not written: {error}") from error
    print(f"written: {out} ({out.stat().st_size:,} bytes of floats; images in [0, 1], any number of them)")
    return out.stat().st_size


def _compare_onnx(made: Path, out: Path, compare: Callable[[nn.Module], Parity]) -> None:
    if find_spec("onnxruntime") is None:
        print("not compared: onnxruntime is not installed (pip install 'bnn-lightning[benchmark]')")
        return
    network = OnnxNetwork(made)
    parity = compare(network)
    print(parity)
    print(f"        images one by one: largest difference of a logit {network.largest_difference:.2g}", flush=True)
    _refuse_faults(parity, out, "onnxruntime")


def _out(settings: ExportSettings) -> Path:
    """Return where to write, after a look at the folder: nothing long has begun yet."""
    suffix = _SUFFIXES[settings.format]
    if _rounds(settings) and settings.format not in ("packed", "web"):
        forms = f"rest={settings.rest} and stem={settings.stem}"
        raise UserError(f"{forms} are forms of packed files; format={settings.format} takes rest=fp32 and stem=fp32.")
    # Files of the zoo lie in the package: what is made of them, in the working folder.
    beside = Path(settings.ckpt.removeprefix(PREFIX)) if is_name(settings.ckpt) else network_file(settings.ckpt)
    out = beside.with_suffix(suffix) if settings.out is None else Path(settings.out)
    if settings.format == "web":
        return _out_of_page(out)
    if out.suffix != suffix:
        raise UserError(f"`out` must end in {suffix} with format={settings.format}, got {out}.")
    check_out(out)
    if settings.format == "c":
        check_out(out.with_suffix(".h"))
        try:
            check_name(out.stem)
        except ValueError as error:
            raise UserError(f"`out`={out} names the functions, too: {error}") from error
    return out


def _out_of_page(out: Path) -> Path:
    check_out_folder(out, FILES)
    try:
        check_folder(out)
    except WebError as error:
        raise UserError(f"`out`: {error}") from error
    return out


def _compare(
    backbone: nn.Module,
    other: nn.Module,
    *,
    datamodule: Any,
    trainer: dict[Any, Any],
    settings: ExportSettings,
) -> Parity:
    module = _Compare(backbone, other, settings.margin, settings.max_drop if _rounds(settings) else None)
    if settings.images is not None:
        trainer["limit_test_batches"] = max(1, -(-settings.images // datamodule.eval_batch_size))
    runner = build_trainer(trainer, callbacks=[], loggers=[])
    check_data(datamodule, runner, stage="test")
    runner.test(module, datamodule=datamodule, verbose=False)
    return module.comparison.parity


def _rounds(settings: ExportSettings) -> bool:
    return settings.rest != "fp32" or settings.stem != "fp32"


def _stored(packed: PackedNetwork, datamodule: Any, settings: ExportSettings) -> nn.Module:
    """Return what the file will hold, loaded."""
    info = PackedInfo("stored", datamodule.in_channels, datamodule.image_size)
    with tempfile.TemporaryDirectory() as folder:
        _save(packed, Path(folder, "net.bnn"), info, settings)
        return load(Path(folder, "net.bnn").read_bytes())


def pack_opened(opened: Opened, *, trust: Sequence[str] = ()) -> LoadedNetwork:
    """Return the network of a checkpoint as its packed file is loaded; no data are read.

    Raises:
        UserError: It cannot be packed.
    """
    datamodule = build_datamodule(opened.data, trust=trust)
    check_class_names(opened.class_names, datamodule, opened.path)
    try:
        packed = pack(opened.task.backbone.eval())
        with tempfile.TemporaryDirectory() as folder:
            save(packed, Path(folder, "net.bnn"), describe(opened.config, datamodule))
            return load(Path(folder, "net.bnn").read_bytes())
    except ValueError as error:
        raise UserError(f"`{opened.path}` cannot be packed: {error}") from error


def digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _figures(parity: Parity) -> dict[str, Any]:
    return {
        "images": parity.images,
        "largest_difference": parity.largest_difference,
        "margin": parity.margin,
        "others": len(parity.others),
        "correct": {"trained": parity.correct[0], "packed": parity.correct[1]},
    }


def describe(embedded: dict[str, Any], datamodule: Any, more: dict[str, Any] | None = None) -> PackedInfo:
    """Return what a packed file says of its network.

    Args:
        embedded: What the network was built from: the sections `model` and `data`, and others.
        datamodule: Knows the size, the classes and the preparation of its images.
        more: Of its provenance.
    """
    model = embedded["model"]
    config = {key: embedded[key] for key in ("model", "data", "distill", "epochs", "seed") if key in embedded}
    if isinstance(config.get("data"), dict):
        config["data"] = {key: value for key, value in config["data"].items() if key != "root"}  # of a machine
    provenance = {
        "made_by": f"bnn-lightning {bnn_lightning.__version__}",
        **_commit(),
        "config": config,
        **(more or {}),
    }
    names = tuple(datamodule.class_names)
    return PackedInfo(
        name=str(model.get("name", model.get("_target_"))),
        in_channels=datamodule.in_channels,
        image_size=datamodule.image_size,
        class_names=names if len(names) == datamodule.num_classes else (),
        provenance=provenance,
        preparation=_preparation(datamodule),
    )


def _preparation(datamodule: Any) -> Preparation | None:
    preparation = getattr(datamodule, "preparation", None)
    if isinstance(preparation, Preparation):
        return preparation
    print(
        f"pictures: {type(datamodule).__name__} has no `preparation`, so that the file does not say how pictures are "
        "prepared: `bnn predict` will need `resize=`"
    )
    return None


def _commit() -> dict[str, str]:
    """Return the last commit of the package, where it is run from a checkout."""
    command = ["git", "log", "-1", "--format=%H", "--", "."]
    try:
        done = subprocess.run(
            command, cwd=Path(bnn_lightning.__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    commit = done.stdout.strip()
    return {"commit": commit} if done.returncode == 0 and commit else {}


def _print_sizes(out: Path, sizes: FileSizes) -> None:
    parts = f"signs {sizes.binary:,}, other tensors {sizes.rest:,}, header {sizes.header:,}"
    print(f"written: {out}\nsize:    {sizes.total:,} bytes ({parts})")
    print(f"next:\n  bnn predict packed={out} images=FOLDER")
