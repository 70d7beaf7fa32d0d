"""Arguments of `metazoo zoo ...`. Nothing heavy is imported here."""

from typing import Any

from metazoo import choices
from metazoo.cli import options
from metazoo.cli.options import Parser, command, decimals, natural, number, positive
from metazoo.text import local_path


def add_commands(commands: Any) -> None:
    """Add the commands of the group."""
    _build(commands)
    _add(commands)
    inspect = command(commands, "inspect", "zoo_commands:inspect", "List the models")
    _zoo(inspect)
    inspect.add_argument("--run", type=local_path, help="Run on this zoo whose records on each model are shown")
    inspect.add_argument(
        "--format",
        choices=("table", "csv", "json"),
        default="table",
        help="Format of the output; csv and json hold all class names (default: %(default)s)",
    )
    verify = command(
        commands, "verify", "zoo_commands:verify", "Load and try every model; exit code 0 if all are sound"
    )
    _zoo(verify)
    options.data(verify, "--images", "Labelled images that show whether mean and std are right")
    verify.add_argument("--seconds", type=number, default=120.0, help="Time limit per model in seconds (default: 120)")
    verify.add_argument(
        "--memory", type=number, metavar="MB", help="Memory limit per model in MB (default: most of the free memory)"
    )
    change = command(
        commands,
        "set",
        "zoo_commands:change",
        "Set the use of images recovered from models",
        "Set what runs may do with the images that they recover from models; resumed runs obey too.",
    )
    _zoo(change)
    change.add_argument("names", metavar="MODEL", nargs="*", help="Names of models (default: all)")
    options.recovered_images(change, required=True)
    remove = command(commands, "remove", "zoo_commands:remove", "Remove models and delete their files")
    _zoo(remove)
    remove.add_argument("names", metavar="MODEL", nargs="+", help="Names of models, see `metazoo zoo inspect`")


def _zoo(parser: Parser) -> None:
    parser.add_argument("zoo", type=local_path, metavar="ZOO", help="Zoo folder")


def _channels(parser: Parser, default: int | None = None) -> None:
    parser.add_argument(
        "--channels", type=int, choices=(1, 3), default=default, help="Channels of the input; 1 is grey (default: 3)"
    )


def _build(commands: Any) -> None:
    build = command(
        commands,
        "build",
        "zoo_commands:build",
        "Train small models on classes drawn from a data set",
        "Train until OUT holds N such models; existing ones are kept.",
    )
    build.add_argument("out", type=local_path, metavar="OUT", help="Zoo folder, made if missing")
    options.data(build, required=True)
    build.add_argument(
        "--arch", default="conv4", help="Architecture, such as thin-resnet or resnet10 (default: %(default)s)"
    )
    build.add_argument(
        "--models",
        metavar="N",
        type=positive,
        required=True,
        help="Number of models of this domain, architecture and seed, existing ones included",
    )
    build.add_argument("--ways", type=positive, default=5, help="Classes per model (default: %(default)s)")
    options.seed(build)
    build.add_argument("--domain", help="Domain of the images (default: the name of the data)")
    build.add_argument("--epochs", type=positive, default=60, help="Passes over the images (default: %(default)s)")
    build.add_argument("--batch-size", type=positive, default=128, help="Images per step (default: %(default)s)")
    build.add_argument("--learning-rate", type=number, help="Learning rate of the first epochs (default: 0.01)")
    build.add_argument(
        "--shift",
        type=natural,
        metavar="PIXELS",
        help="Largest shift of images that are mirrored and shifted at random (default: no augmentation)",
    )
    build.add_argument("--width", type=positive, help="Width of the architecture (default: its own)")
    build.add_argument(
        "--input-size",
        type=positive,
        help="Side of the input in pixels (default: that of a pack; 84 for mini-imagenet and cub; else 32)",
    )
    _channels(build, 3)
    build.add_argument(
        "--control",
        choices=choices.CONTROLS,
        help="Control zoo, recorded in the contracts. untrained: random weights; shuffled-labels: training on labels "
        "permuted among the images",
    )
    options.recovered_images(build)
    options.images_per_class(build)
    options.executor(build)
    options.device(build)


def _add(commands: Any) -> None:
    add = command(
        commands,
        "add",
        "zoo_commands:add",
        "Add a model that was trained elsewhere, or a folder of models",
        "Add a model of timm, torchvision, the Hugging Face Hub or a file. What its source does not say must be given "
        "here, or in a .yaml file of the same name beside the weights.",
        f"Example of a file pets.yaml beside pets.safetensors: {choices.MODEL_EXAMPLE}",
    )
    add.add_argument("zoo", type=local_path, metavar="ZOO", help="Zoo folder, made if missing")
    add.add_argument(
        "source",
        metavar="SOURCE",
        type=local_path,
        nargs="?",
        help="Source: timm:NAME[.TAG], torchvision:NAME[.WEIGHTS], hf:OWNER/NAME[@REVISION] (of timm or transformers), "
        "or a .safetensors, .pt, .pth or .bin file",
    )
    add.add_argument(
        "--from-folder",
        type=local_path,
        metavar="DIR",
        help="Folder of weights, each with a .yaml file that describes it; all are added",
    )
    add.add_argument(
        "--weights", type=local_path, metavar="FILE", help="File with the weights of a model of timm or torchvision"
    )
    add.add_argument(
        "--pretrained", action="store_true", help="Published weights of a model of timm or torchvision, downloaded"
    )
    add.add_argument("--name", help="Name of the model in the zoo (default: from SOURCE)")
    add.add_argument("--arch", help="Architecture of the weights in a file, such as timm:convnext_atto or resnet18")
    add.add_argument(
        "--classes",
        metavar="FILE_OR_LIST",
        help="Class names in the order of the outputs: a list such as cat,dog; a file with one per line; imagenet-1k",
    )
    add.add_argument("--input-size", type=positive, help="Side of the square input in pixels")
    _channels(add)
    add.add_argument(
        "--mean", type=decimals, help="Channel means of images in [0, 1], such as 0.485,0.456,0.406; or one for all"
    )
    add.add_argument(
        "--std",
        type=decimals,
        help="Channel standard deviations of images in [0, 1], such as 0.229,0.224,0.225; or one for all",
    )
    add.add_argument("--domain", help="Domain of the images, such as the name of the data set")
    add.add_argument("--licence", help="Licence of the weights")
    options.recovered_images(add)
