"""The commands of the pages on data and scale compose, and name what exists."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnn_lightning.cli.build import check, check_sections

Composed = Callable[..., dict[str, Any]]
DOCS = Path(__file__).parents[2] / "docs"


def commands(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


FOUND = [command for page in ("data.md", "scale.md") for command in commands(page)]


def test_every_way_to_start_is_shown() -> None:
    for start in ("bnn train ", "bnn evaluate ", "bnn prepare ", "torchrun ", "srun python train.py ", "bnn train -m "):
        assert any(command.startswith(start) for command in FOUND), start


@pytest.mark.parametrize("command", FOUND)
def test_command_composes(command: str, composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):  # data=folder counts the classes of what `data.root` names on the page
        Path("own", "train", name).mkdir(parents=True)
    words = shlex.split(command)
    verbs = "train|evaluate|prepare|export|predict"
    started = re.match(rf"(?:torchrun (?:--\S+ )*|srun python )?(?:train\.py|bnn ({verbs})) ", command)
    assert started, command
    verb = started[1] or "train"
    # Hydra's own keys and plugins are none of the tree's.
    overrides = [word for word in words if "=" in word and not word.startswith(("-", "hydra"))]
    config = composed(*overrides, primary=verb)
    if verb == "train":
        check_sections(config)
    elif verb == "evaluate":
        check(config["trainer"], at="trainer")
    if "num_nodes" in command:
        assert config["trainer"]["num_nodes"] == int(re.findall(r"num_nodes=(\d+)", command)[0])


def test_fsdp_is_the_strategy_of_ours(composed: Composed) -> None:
    for primary, words in (("train", []), ("evaluate", ["ckpt=x"])):
        strategy = composed(*words, "strategy=fsdp", primary=primary)["trainer"]["strategy"]
        assert strategy == {"_target_": "bnn_lightning.tasks.FullyShardedStrategy"}
