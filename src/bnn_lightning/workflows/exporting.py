"""Export of a checkpoint: packed, compared on real images, and written."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, seed_everything
from torch import Tensor, nn

from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy.export.formats import FORMATS, Format, Written
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.ir.graph import GraphError
from bnn_lightning.deploy.runtime.network import LoadedNetwork, load
from bnn_lightning.deploy.runtime.packed_network import PackedNetwork, pack
from bnn_lightning.deploy.runtime.save import save
from bnn_lightning.deploy.validate.baselines import OnnxNetwork
from bnn_lightning.deploy.validate.parity import Comparison, Parity
from bnn_lightning.workflows.building import build_datamodule
from bnn_lightning.workflows.checkpoint import network_file
from bnn_lightning.workflows.checks import check_devices
from bnn_lightning.workflows.errors import UserError, as_user_error
from bnn_lightning.workflows.messages import say
from bnn_lightning.workflows.opened import (
    OpenedNetwork,
    check_class_names,
    describe,
    open_checkpoint,
)
from bnn_lightning.workflows.out_file import check_out, check_out_folder, unwritten, written
from bnn_lightning.workflows.packed_file import packed_info
from bnn_lightning.workflows.process_state import contained
from bnn_lightning.workflows.settings import ExportSettings, make_settings, takes
from bnn_lightning.workflows.trainer import SCORING_TRAINER, show_images
from bnn_lightning.zoo.download import checksum
from bnn_lightning.zoo.files import is_name
from bnn_lightning.zoo.receipts import PREFIX

Plain = dict[str, Any]


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
        format: Format of the file.
        size: Bytes of the file; of a web page, of all its files.
        parity: Comparison with the trained network on test images; None where onnxruntime is not installed.
        text: Report of the written file.
        preparation: Preparation of pictures that the file holds; None where it holds none.
    """

    path: Path
    format: str
    size: int
    parity: Parity | None
    text: str
    preparation: Preparation | None = None

    def __repr__(self) -> str:
        return self.text


@takes(ExportSettings)
@contained()
def export(
    ckpt: str | Path,
    out: str | Path | None = None,
    *,
    model: str | Plain | None = None,
    data: str | Plain | None = None,
    data_dir: str | Path | None = None,
    trainer: Plain | None = None,
    **options: Any,
) -> Exported:
    """Write a checkpoint as one file, after a comparison with the network on test images.

    Args:
        ckpt: A checkpoint, a run's folder, or a name of the zoo such as "zoo:mnist_mlp".
        out: The file, or a folder with `format="web"`; None: beside the checkpoint.
        model: Network of a published file: a name of `list_backbones()`, or a section of a configuration.
        data: Set to compare on: see `evaluate`.
        data_dir: Folder of the data files, where those of the training are not there; None: `BNN_DATA` of the
            environment, or "data".
        trainer: Arguments of Lightning's Trainer, for the comparison.
        options: Keys of `ExportSettings`.

    Raises:
        UserError: A checkpoint that cannot be read or is not binary, missing data, or a packed network that disagrees.
    """
    settings = make_settings(ExportSettings, "export", ckpt=ckpt, out=out, **options)
    if not 0 <= settings.margin < float("inf"):
        raise UserError(f"`margin` must be a number from 0 on, got {settings.margin}.")
    if not 0 <= settings.max_drop <= 100:
        raise UserError(f"`max_drop` must lie between 0 and 100 percentage points, got {settings.max_drop}.")
    file = _checked_out(settings)
    node = SCORING_TRAINER | {"accelerator": "cpu"} | (trainer or {})
    check_devices(node)
    seed_everything(settings.seed, workers=True, verbose=False)
    opened = open_checkpoint(settings.ckpt, describe(model, data, data_dir), trust=settings.trust)
    backbone = opened.task.backbone.eval()
    datamodule = opened.datamodule(trust=settings.trust)
    compare = partial(_compare, backbone, datamodule=datamodule, trainer=node, settings=settings)
    if FORMATS[settings.format].source == "network":
        return _export_network(backbone, file, settings, compare)
    return _export_packed(opened, datamodule, file, settings, compare)


def _export_packed(
    opened: OpenedNetwork,
    datamodule: Any,
    out: Path,
    settings: ExportSettings,
    compare: Callable[[nn.Module], Parity],
) -> Exported:
    """Pack a network, compare what users will run, and write it."""
    backbone = opened.task.backbone
    with as_user_error(f"`{opened.path}` cannot be packed: ", (ValueError,)):
        packed = pack(backbone)
    say(f"packed: {packed.report}")
    row = FORMATS[settings.format]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.bnn")
        # The check is of what users run: the loaded file, or the layers that torch traces, which add in another order.
        if row.source == "file":
            info = packed_info(opened.config, datamodule)
            _save(packed, file, info, settings)
            with _writing(out):
                row.check_file(file)
        parity = compare(packed.network if row.source == "layers" else load(file.read_bytes()))
        say(str(parity))
        _refuse_faults(parity, out, "the packed network")
        if row.source == "layers":
            return _written(row, packed, out, parity)
        provenance = {**info.provenance, "checkpoint_sha256": checksum(Path(opened.path)), "parity": _figures(parity)}
        _save(packed, file, replace(info, provenance=provenance), settings)
        return replace(_written(row, file, out, parity), preparation=info.preparation)


def _written(row: Format, source: Any, out: Path, parity: Parity) -> Exported:
    with _writing(out):
        result: Written = row.write(source, out)
    return Exported(out, row.name, result.size, parity, result.text)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Make errors of the user of what a format cannot hold, and of files that cannot be written."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, ModuleNotFoundError) as error:
        raise UserError(f"`{out}` was not written: {error}") from error
    except OSError as error:
        raise unwritten(out, "out", error) from error


def _refuse_faults(parity: Parity, out: Path, who: str) -> None:
    if parity.faults:
        hangs = parity.others and parity.max_drop is None
        remedy = " A class may hang on rounding: `margin=` accepts larger margins." if hangs else ""
        raise UserError(f"`{out}` was not written, {who} disagrees: {' '.join(parity.faults[:3])}{remedy}")


def _save(packed: PackedNetwork, path: Path, info: PackedInfo, settings: ExportSettings) -> None:
    try:
        save(packed, path, info, rest=settings.rest, stem=settings.stem)  # type: ignore[arg-type]
    except GraphError as error:
        raise UserError(f"`{settings.out or path}` was not written: {error}") from error
    except OSError as error:
        raise unwritten(path, "out", error) from error


def _export_network(
    backbone: nn.Module, out: Path, settings: ExportSettings, compare: Callable[[nn.Module], Parity]
) -> Exported:
    """Write floats for other runtimes; where onnxruntime is installed, only if it computes what the network does."""
    row = FORMATS[settings.format]
    with _writing(out), written(out) as made:
        row.write(backbone, made, precise=settings.precise)
        parity = _compare_onnx(made, out, compare)
    size = out.stat().st_size
    text = f"written: {out} ({size:,} bytes of floats; images in [0, 1], any number of them)"
    return Exported(out, row.name, size, parity, text)


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
    return beside.with_suffix(FORMATS[settings.format].suffix)


def _checked_out(settings: ExportSettings) -> Path:
    """Return the path of the output, checked before long work starts."""
    row = FORMATS[settings.format]
    if _rounds(settings) and not row.rounds:
        forms = f"rest={settings.rest} and stem={settings.stem}"
        raise UserError(f"{forms} are forms of packed files; format={row.name} takes rest=fp32 and stem=fp32.")
    out = out_path(settings)
    if row.folder:
        check_out_folder(out, [file.name for file in row.files(out)])
    elif out.suffix != row.suffix:
        raise UserError(f"`out` must end in {row.suffix} with format={row.name}, got {out}.")
    for file in () if row.folder else row.files(out):
        check_out(file)
    with as_user_error("`out`: ", (ValueError,)):
        row.check_out(out)
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
    show_images(module, datamodule, trainer, images=settings.images)
    return module.comparison.parity


def _rounds(settings: ExportSettings) -> bool:
    return settings.rest != "fp32" or settings.stem != "fp32"


def pack_opened(opened: OpenedNetwork, *, trust: Sequence[str] = ()) -> LoadedNetwork:
    """Return the network of a checkpoint as its packed file is loaded; no data are read.

    Raises:
        UserError: It cannot be packed.
    """
    datamodule = build_datamodule(opened.data, trust=trust)
    check_class_names(opened.class_names, datamodule, opened.path)
    with as_user_error(f"`{opened.path}` cannot be packed: ", (ValueError,)):
        packed = pack(opened.task.backbone.eval())
        with tempfile.TemporaryDirectory() as folder:
            save(packed, Path(folder, "net.bnn"), packed_info(opened.config, datamodule))
            return load(Path(folder, "net.bnn").read_bytes())


def _figures(parity: Parity) -> dict[str, Any]:
    return {
        "images": parity.images,
        "largest_difference": parity.largest_difference,
        "margin": parity.margin,
        "others": len(parity.others),
        "correct": {"trained": parity.correct[0], "packed": parity.correct[1]},
    }
