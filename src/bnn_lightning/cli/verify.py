"""`bnn verify`: check every byte of a packed file, its graph and its plans."""

from collections.abc import Sequence

from omegaconf import DictConfig

from bnn_lightning.cli.launch import launch


def main(prefix: Sequence[str] = ()) -> None:
    """Verify as the command line says.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb.
    """
    launch(verify, config_name="verify", prefix=prefix)


def verify(config: DictConfig) -> float:
    """Verify a file with a composed configuration, print one line, and return the bytes that were checked.

    Raises:
        UserError: There is no such file, or something of it does not hold.
    """
    # Imported late: `--help` and `--cfg job` do without torch.
    from bnn_lightning.cli.errors import UserError, explain
    from bnn_lightning.cli.packed_file import packed_path
    from bnn_lightning.cli.schema import VerifySettings, read_settings
    from bnn_lightning.deploy.validate.integrity import verify_file

    path = packed_path(read_settings(VerifySettings, config).packed)
    try:
        found = verify_file(path)
    except FileNotFoundError as error:
        raise UserError(f"`packed`: there is no file {path}.") from error
    except (ValueError, OSError) as error:
        raise UserError(explain(error)) from error
    plans = f"{found.plans} plan{'s' * (found.plans != 1)}" if found.plans else "no plan"
    counts = f"{found.size:,} bytes, {found.nodes} nodes, {found.constants} constants, {plans}"
    print(f"{path}: whole ({counts})")
    return float(found.size)
