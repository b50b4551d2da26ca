"""Pack the network of a checkpoint, compare it on real images, and write it."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, seed_everything
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from bnn_lightning.deploy.export.c99 import to_c99
from bnn_lightning.deploy.export.c99_text import check_name
from bnn_lightning.deploy.export.onnx import first_line, write_onnx
from bnn_lightning.deploy.export.web import FILES, WebError, check_folder, write_web
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.frontend.capture import TRACING_ERRORS
from bnn_lightning.deploy.frontend.pack import example_images
from bnn_lightning.deploy.ir.graph import GraphError
from bnn_lightning.deploy.runtime.network import LoadedNetwork, load
from bnn_lightning.deploy.runtime.packed_network import PackedNetwork, pack
from bnn_lightning.deploy.runtime.save import FileSizes, save
from bnn_lightning.deploy.validate.baselines import OnnxNetwork
from bnn_lightning.deploy.validate.parity import Comparison, Parity
from bnn_lightning.workflows.building import build_datamodule
from bnn_lightning.workflows.checkpoint import network_file
from bnn_lightning.workflows.checks import check_data, check_devices
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.log_filters import silence
from bnn_lightning.workflows.messages import say
from bnn_lightning.workflows.opened import (
    Opened,
    check_class_names,
    check_images,
    check_labels,
    describe,
    open_checkpoint,
)
from bnn_lightning.workflows.out_file import check_out, check_out_folder, unwritten, written
from bnn_lightning.workflows.packed_info import packed_info
from bnn_lightning.workflows.settings import ExportSettings, make_settings, takes
from bnn_lightning.workflows.trainer import SCORING_TRAINER, build_trainer
from bnn_lightning.zoo.files import is_name
from bnn_lightning.zoo.receipts import PREFIX

Plain = dict[str, Any]

_SUFFIXES = {"packed": ".bnn", "torch": ".pt2", "onnx": ".onnx", "c": ".c", "web": ".web"}


class _Compare(LightningModule):
    def __init__(self, model: nn.Module, packed: nn.Module, margin: float, max_drop: float | None) -> None:
        super().__init__()
        ours = not isinstance(packed, OnnxNetwork)
        self.comparison = Comparison(model, packed, margin=margin, max_drop=max_drop, layers=ours, rounds=not ours)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.comparison.update(*batch)


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        path: The file, or the folder of a web page.
        format: Of the file.
        size: Bytes of the file; of a web page, of all its files.
        parity: Comparison with the trained network on test images; None where onnxruntime is not installed.
        text: What was written, in words.
    """

    path: Path
    format: str
    size: int
    parity: Parity | None = field(repr=False)
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.text


@takes(ExportSettings)
def export(
    ckpt: str | Path,
    out: str | Path | None = None,
    *,
    model: str | Plain | None = None,
    data: str | Plain | None = None,
    data_dir: str = "data",
    trainer: Plain | None = None,
    **options: Any,
) -> Exported:
    """Write a checkpoint as one file, after a comparison with the network on test images.

    Args:
        ckpt: A checkpoint, a run's folder, or a name of the zoo such as "zoo:mnist_mlp".
        out: The file, or a folder with `format="web"`; None: beside the checkpoint.
        model: Network of a published file: a name of `list_backbones()`, or a section of a configuration.
        data: Set to compare on: see `evaluate`.
        data_dir: Folder of the data files, where those of the training are not there.
        trainer: Arguments of Lightning's Trainer, for the comparison.
        options: Keys of `ExportSettings`.

    Raises:
        UserError: A checkpoint that cannot be read or is not binary, missing data, or a packed network that disagrees.
    """
    settings = make_settings(ExportSettings, "export", ckpt=ckpt, out=out, **options)
    silence()
    if not 0 <= settings.margin < float("inf"):
        raise UserError(f"`margin` must be a number from 0 on, got {settings.margin}.")
    if not 0 <= settings.max_drop <= 100:
        raise UserError(f"`max_drop` must lie between 0 and 100 percentage points, got {settings.max_drop}.")
    file = _checked_out(settings)
    node = SCORING_TRAINER | {"accelerator": "cpu"} | (trainer or {})
    check_devices(node)
    seed_everything(settings.seed, workers=True, verbose=False)
    opened = open_checkpoint(settings.ckpt, describe(model, data, data_dir), verb="export", trust=settings.trust)
    backbone = opened.task.backbone.eval()
    datamodule = build_datamodule(opened.data, trust=settings.trust)
    check_labels(backbone, datamodule, opened.path)
    check_class_names(opened.class_names, datamodule, opened.path)
    check_images(backbone, datamodule, opened.path)
    if settings.format == "web" and getattr(datamodule, "preparation", None) is None:
        raise UserError(f"a web page prepares pictures itself: {type(datamodule).__name__} needs a `preparation`.")
    compare = partial(_compare, backbone, datamodule=datamodule, trainer=node, settings=settings)
    if settings.format == "onnx":
        return _write_onnx(backbone, file, compare, precise=settings.precise)
    return _export_packed(opened, datamodule, file, settings, compare)


def _export_packed(
    opened: Opened, datamodule: Any, out: Path, settings: ExportSettings, compare: Callable[[nn.Module], Parity]
) -> Exported:
    """Pack a network, compare what users will run, and write it."""
    backbone = opened.task.backbone
    try:
        packed = pack(backbone)
    except ValueError as error:
        raise UserError(f"`{opened.path}` cannot be packed: {error}") from error
    say(f"packed: {packed.report}")
    # What users will run: the file as it is loaded, or the layers that torch traces, which add in another order.
    parity = compare(packed.network if settings.format == "torch" else _stored(packed, datamodule, settings))
    say(str(parity))
    _refuse_faults(parity, out, "the packed network")
    if settings.format == "torch":
        return _write_torch(packed, backbone, out, parity)
    info = packed_info(
        opened.config, datamodule, {"checkpoint_sha256": digest(opened.path), "parity": _figures(parity)}
    )
    if settings.format == "web":
        return _write_web(packed, out, info, settings, parity)
    if settings.format == "c":
        return _write_c(packed, out, info, parity)
    return _write_packed(packed, out, info, settings, parity)


def _refuse_faults(parity: Parity, out: Path, who: str) -> None:
    if parity.faults:
        hangs = parity.others and parity.max_drop is None
        remedy = " A class may hang on rounding: `margin=` accepts larger margins." if hangs else ""
        raise UserError(f"`{out}` was not written, {who} disagrees: {' '.join(parity.faults[:3])}{remedy}")


def _write_packed(
    packed: PackedNetwork, out: Path, info: PackedInfo, settings: ExportSettings, parity: Parity
) -> Exported:
    sizes = _save(packed, out, info, settings)
    load(out)
    parts = f"signs {sizes.binary:,}, other tensors {sizes.rest:,}, header {sizes.header:,}"
    text = f"written: {out}\nsize:    {sizes.total:,} bytes ({parts})"
    return Exported(out, "packed", sizes.total, parity, text)


def _save(packed: PackedNetwork, path: Path, info: PackedInfo, settings: ExportSettings) -> FileSizes:
    try:
        return save(packed, path, info, rest=settings.rest, stem=settings.stem)  # type: ignore[arg-type]
    except GraphError as error:
        raise UserError(f"`{settings.out or path}` was not written: {error}") from error
    except OSError as error:
        raise unwritten(path, "out", error) from error


def _write_web(
    packed: PackedNetwork, out: Path, info: PackedInfo, settings: ExportSettings, parity: Parity
) -> Exported:
    try:
        with tempfile.TemporaryDirectory() as folder:
            _save(packed, Path(folder, "model.bnn"), info, settings)
            size = write_web(Path(folder, "model.bnn"), out)
    except WebError as error:
        raise UserError(f"`{out}` was not written: {error}") from error
    except OSError as error:
        raise unwritten(out, "out", error) from error
    text = f"written: {out}/index.html, bnn.wasm and model.bnn ({size:,} bytes), for any static web server"
    return Exported(out, "web", size, parity, text)


def _write_c(packed: PackedNetwork, out: Path, info: PackedInfo, parity: Parity) -> Exported:
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
    words = (
        f"written: {out} and {header}: C99, void {out.stem}_logits(...), int {out.stem}_classify(...)\n"
        f"flash:   {text.flash:,} bytes of constants\nram:     {text.ram:,} bytes"
    )
    return Exported(out, "c", out.stat().st_size, parity, words)


def _write_torch(packed: PackedNetwork, backbone: nn.Module, out: Path, parity: Parity) -> Exported:
    images = example_images(backbone, 2)
    try:
        with written(out) as made:
            program = torch.export.export(packed, (images,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
            torch.export.save(program, made)
            with torch.no_grad():
                same = torch.equal(torch.export.load(made).module()(images), packed.run_layers(images))
            if not same:
                raise UserError(
                    f"`{out}` was not written: the program that torch exports gives other logits than the network."
                )
    except (*TRACING_ERRORS, TorchDynamoException) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"`{out}` was not written, torch cannot export the network: {first_line(error)}") from error
    remarks = "images in [0, 1]; import bnn_lightning.deploy.frontend.torch_library before torch.export.load"
    size = out.stat().st_size
    return Exported(out, "torch", size, parity, f"written: {out} ({size:,} bytes; {remarks})")


def _write_onnx(backbone: nn.Module, out: Path, compare: Callable[[nn.Module], Parity], *, precise: bool) -> Exported:
    """Write ONNX; where onnxruntime is installed, only if it computes what the network does."""
    try:
        with written(out) as made:
            write_onnx(backbone, made, precise=precise)
            parity = _compare_onnx(made, out, compare)
    except (ValueError, ModuleNotFoundError) as error:
        raise error if isinstance(error, UserError) else UserError(f"`{out}` was not written: {error}") from error
    size = out.stat().st_size
    text = f"written: {out} ({size:,} bytes of floats; images in [0, 1], any number of them)"
    return Exported(out, "onnx", size, parity, text)


def _compare_onnx(made: Path, out: Path, compare: Callable[[nn.Module], Parity]) -> Parity | None:
    if find_spec("onnxruntime") is None:
        say("not compared: onnxruntime is not installed (pip install 'bnn-lightning[benchmark]')")
        return None
    network = OnnxNetwork(made)
    parity = compare(network)
    say(f"{parity}\n        images one by one: largest difference of a logit {network.largest_difference:.2g}")
    _refuse_faults(parity, out, "onnxruntime")
    return parity


def out_path(settings: ExportSettings) -> Path:
    """Return the file, or the folder of a web page, that settings mean."""
    if settings.out is not None:
        return Path(settings.out)
    # Files of the zoo lie in the package: what is made of them, in the working folder.
    beside = Path(settings.ckpt.removeprefix(PREFIX)) if is_name(settings.ckpt) else network_file(settings.ckpt)
    return beside.with_suffix(_SUFFIXES[settings.format])


def _checked_out(settings: ExportSettings) -> Path:
    """Return where to write, after a look at the folder: nothing long has begun yet."""
    suffix = _SUFFIXES[settings.format]
    if _rounds(settings) and settings.format not in ("packed", "web"):
        forms = f"rest={settings.rest} and stem={settings.stem}"
        raise UserError(f"{forms} are forms of packed files; format={settings.format} takes rest=fp32 and stem=fp32.")
    out = out_path(settings)
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
    trainer: Plain,
    settings: ExportSettings,
) -> Parity:
    module = _Compare(backbone, other, settings.margin, settings.max_drop if _rounds(settings) else None)
    if settings.images is not None:
        trainer = {**trainer, "limit_test_batches": max(1, -(-settings.images // datamodule.eval_batch_size))}
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
            save(packed, Path(folder, "net.bnn"), packed_info(opened.config, datamodule))
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
