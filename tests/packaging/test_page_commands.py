"""Every command of the documentation composes: its keys exist, and what it builds takes its arguments."""

import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bnn_lightning.cli.config_paths import config_dir, list_options
from bnn_lightning.cli.facts import take_facts
from bnn_lightning.cli.main import VERBS
from bnn_lightning.cli.own_folder import running
from bnn_lightning.workflows.building import check, check_sections
from bnn_lightning.workflows.config_folder import targets_of
from bnn_lightning.workflows.errors import UserError
from tests.packaging.pages import Command, blocks, commands, texts

PAGES = {page: text for page, text in texts().items() if commands(text)}
# Commands without a configuration of their own.
PLAIN = {"zoo", "conf"}


def primary(command: Command) -> str | None:
    """Return the configuration that a command composes, or None."""
    if (config_dir() / f"{command.verb}.yaml").is_file():
        return command.verb
    kind = command.words[0].partition("=")[0] if command.words else None
    return f"{command.verb}/{kind}" if kind and (config_dir() / command.verb / f"{kind}.yaml").is_file() else None


def overrides(words: list[str]) -> tuple[list[str], Path | None]:
    """Return the overrides of a command, the first job of a sweep, and the folder that `-cd` names."""
    folder = Path(words[words.index("-cd") + 1]) if "-cd" in words else None
    keys = [word for word in words if "=" in word and not word.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(keys)
    first = [
        f"{override.input_line.partition('=')[0]}={next(override.sweep_string_iterator())}"
        if override.is_sweep_override()
        else str(override.input_line)
        for override in parsed
    ]
    return first, folder


def composes(command: Command) -> None:
    """Compose a command and check its keys.

    Raises:
        AssertionError: No such command.
        HydraException: A key that does not exist.
    """
    assert command.verb in VERBS, command.verb
    if command.verb in PLAIN:
        conf(command)
        return
    config_name = primary(command)
    if config_name is None:
        assert not [word for word in command.words if "=" in word], "no such figure"
        return
    if find_spec("hydra_plugins.hydra_optuna_sweeper") is None:  # the extra `sweep`
        command.words[:] = [word for word in command.words if word != "sweep=optuna"]
    words, folder = overrides(command.words)
    search = [f"hydra.searchpath=[file://{folder.resolve()}]"] if folder else []
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose(config_name, [*words, *search], return_hydra_config=True)
    with open_dict(config):
        del config["hydra"]
    if config_name == "train":
        with running(command.verb, command.words if folder else []):
            take_facts(config)
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        check_sections(plain, trust=targets_of(folder) if folder else [])
    elif config.get("trainer"):
        check(OmegaConf.to_container(config.trainer, resolve=True), at="trainer")


def conf(command: Command) -> None:
    """Check the words of `bnn conf` against the tree."""
    words = [word for word in command.words if not word.startswith("-")]
    if command.verb == "conf" and words[0] == "show" and any("=" in word for word in words[1:]):
        composes(Command(command.text, "train", command.words[1:]))
    elif command.verb == "conf" and words[0] in ("show", "cp"):
        assert (config_dir() / f"{words[1]}.yaml").is_file(), words[1]
    elif command.verb == "conf" and len(words) > 1 and "-cd" not in command.words:
        assert list_options(words[1]), words[1]


@pytest.mark.parametrize("page", PAGES)
def test_commands_compose(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(PAGES[page]):
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.script, encoding="utf-8")
    for name in ("cat", "dog"):  # data=folder counts the classes in `pictures`
        Path("pictures", "train", name).mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    faults = []
    for command in commands(PAGES[page]):
        try:
            composes(command)
        except (AssertionError, HydraException, UserError, OmegaConfBaseException) as error:
            faults.append(f"{command.text}\n    {type(error).__name__}: {str(error).splitlines()[0]}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    ["bnn trian", "bnn train model=resnet2", "bnn train epoch=3", "bnn evaluate ckpt=a top=3", "bnn visualize x=a"],
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    words = shlex.split(line)
    with pytest.raises((AssertionError, HydraException, UserError)):
        composes(Command(line, words[1], words[2:]))


def test_every_way_to_start_is_shown() -> None:
    text = "\n".join(command.text for found in PAGES.values() for command in commands(found))
    starts = [
        "torchrun ",
        "srun python train.py ",
        "bnn train -m ",
        *(f"bnn {verb}" for verb in VERBS),
    ]
    assert [start for start in starts if start not in text] == []
