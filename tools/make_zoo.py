"""Make the files of a network of the zoo from its run: weights, packed file, receipt.

    python -m tools.make_zoo RUN NAME --commit SHA      RUN: a run's folder; SHA: the commit that it was trained with
    python -m tools.make_zoo RUN NAME                   the packed file again, for a newer format

Args: the folder of a run that has ended, and the name in the zoo. The last epoch's weights are taken; the packed file
classifies the whole test set, and nothing is chosen by it. Files that are too large for the wheel stay in the run's
folder: they belong below BNN_ZOO_URL.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bnn_lightning import zoo
from bnn_lightning.cli.main import main as bnn
from bnn_lightning.deploy import load
from bnn_lightning.workflows.checkpoint import CONFIG_KEY, network_file, read_checkpoint
from bnn_lightning.workflows.weights_file import write_weights
from bnn_lightning.zoo.download import checksum
from bnn_lightning.zoo.files import is_name
from bnn_lightning.zoo.receipts import FOLDER, LARGEST, SUFFIXES

LICENSES = {
    "digits": "CC BY 4.0: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning "
    "Repository, 1998, https://doi.org/10.24432/C50P49",
    "mnist": "CC BY-SA 3.0: the MNIST database of handwritten digits, Y. LeCun, C. Cortes and C. J. C. Burges",
    "cifar10": "no license is stated; to be cited: A. Krizhevsky, Learning Multiple Layers of Features from Tiny "
    "Images, 2009",
}
# Overrides of places, and of how the work is shown: no part of a recipe.
NOT_OF_RECIPE = ("paths.", "hydra.", "logger", "ckpt_path=", "trainer.enable_", "data.root=")


def make(run: Path, name: str, commit: str | None) -> Path:
    """Write the files and return the receipt's path.

    Args:
        run: The run's folder.
        name: In the zoo.
        commit: The commit that the run was trained with; None takes the one of the receipt that is there.
    """
    final = network_file(run)
    if final.name != "final.ckpt":
        raise SystemExit(f"{run} has no final.ckpt: the run has not ended.")
    checkpoint = read_checkpoint(final)
    config = checkpoint[CONFIG_KEY]
    commit = commit or (zoo.receipt(name).commit if name in zoo.names() else None)
    if commit is None:
        raise SystemExit(f"the zoo has no {name} yet: give --commit, the one that {run} was trained with.")
    with tempfile.TemporaryDirectory() as folder:
        made = {kind: Path(folder, f"{name}{suffix}") for kind, suffix in SUFFIXES.items()}
        write_weights(checkpoint, made["weights"])
        bnn(["export", f"ckpt={final}", f"out={made['packed']}", "images=null", "trainer.enable_progress_bar=false"])
        parity = load(made["packed"]).info.provenance["parity"]
        files = {kind: {"size": path.stat().st_size, "sha256": checksum(path)} for kind, path in made.items()}
        for kind, path in made.items():
            place = FOLDER if files[kind]["size"] <= LARGEST[kind] else run
            (place / path.name).write_bytes(path.read_bytes())
            print(f"{place / path.name}: {files[kind]['size']:,} bytes")
    receipt = {
        "name": name,
        "network": config["model"]["name"],
        "data": config["data"]["name"],
        "correct": parity["correct"]["packed"],
        "images": parity["images"],
        "epochs": config["epochs"],
        "seed": config["seed"],
        "recipe": recipe(run, config),
        "commit": commit,
        "license": LICENSES[config["data"]["name"]],
        "files": files,
    }
    out = FOLDER / f"{name}.json"
    out.write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
    return out


def recipe(run: Path, config: dict[str, Any]) -> str:
    """Return the command that trains a run's network, after that of its teacher, without paths of the machine.

    Args:
        run: The run's folder. A teacher's run lies beside it. The teachers of an ensemble, and those of the zoo, get no
            command: they are named in the run's own one.
        config: The run's configuration.
    """
    overrides: Any = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    words = [word for word in overrides if not word.startswith(NOT_OF_RECIPE)]
    named = any(word.startswith(("model=", "experiment=")) for word in words)
    pair = [] if named else [f"model={config['model']['name']}", f"data={config['data']['name']}"]
    command = " ".join(["bnn train", *pair, *words])
    teacher = ((config.get("distill") or {}).get("teacher") or {}).get("ckpt")
    if teacher is None or is_name(teacher):
        return command
    trained = run_of(Path(teacher))
    folder = run.parent / trained.name
    first = recipe(folder, read_checkpoint(network_file(folder))[CONFIG_KEY])
    return f"{first} hydra.run.dir={trained.name} && {command.replace(f'ckpt={teacher}', f'ckpt={trained.name}')}"


def run_of(path: Path) -> Path:
    """Return the run's folder of a path that may be a checkpoint in it.

    Example:
        >>> [str(run_of(Path(path))) for path in ("runs/a", "runs/a/final.ckpt", "runs/a/checkpoints/last.ckpt")]
        ['runs/a', 'runs/a', 'runs/a']
    """
    folder = path.parent if path.suffix == ".ckpt" else path
    return folder.parent if folder.name == "checkpoints" else folder


def main() -> None:
    """Read the command line and make the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--commit")
    given = parser.parse_args()
    out = make(given.run, given.name, given.commit)
    print(f"{out}: {zoo.receipt(given.name).accuracy:.2f} % through the packed file")


if __name__ == "__main__":
    main()
