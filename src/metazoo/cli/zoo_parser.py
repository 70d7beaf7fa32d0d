"""Arguments of `metazoo zoo ...`. It imports nothing heavy."""

from typing import Any

from metazoo import choices
from metazoo.cli import options
from metazoo.cli.options import Parser, arguments, command, decimals, natural, number, path, positive


def add_commands(commands: Any) -> None:
    """Add the commands of the group."""
    _build(commands)
    _add(commands)
    inspect = command(commands, "inspect", "zoo_commands:inspect", "List the models")
    _zoo(inspect)
    inspect.option("--run", "Run on this zoo whose records of the models are shown", path)
    options.output_format(inspect, "table", "csv", "json", more="; csv and json hold all class names")
    verify = command(
        commands, "verify", "zoo_commands:verify", "Load and test every model; exit code 0 if all are sound"
    )
    _zoo(verify)
    options.data(verify, "--images", "Labelled images for a check of mean and std")
    verify.option("--seconds", "Time limit per model in seconds", number, 120)
    verify.option("--memory", "Memory limit per model in MB (default: most of the free memory)", number, metavar="MB")
    change = command(
        commands,
        "set",
        "zoo_commands:change",
        "Set the use of images recovered from models",
        "Set how runs may use the images that they recover from models. Resumed runs obey it, too.",
    )
    _zoo(change)
    change.argument("names", "MODEL", "Names of models (default: all)", str, nargs="*")
    options.recovered_images(change, required=True)
    remove = command(commands, "remove", "zoo_commands:remove", "Remove models and delete their files")
    _zoo(remove)
    remove.argument("names", "MODEL", "Names of models, see `metazoo zoo inspect`", str, nargs="+")


def _zoo(parser: Parser) -> None:
    parser.argument("zoo", "ZOO", "Zoo folder")


def _channels(parser: Parser, default: int | None = None) -> None:
    text = "Channels of the input; 1 is grey (default: 3)"
    parser.add_argument("--channels", type=int, choices=(1, 3), default=default, help=text)


def _build(commands: Any) -> None:
    build = command(
        commands,
        "build",
        "zoo_commands:build",
        "Train small models on classes drawn from a data set, or on listed classes",
        "Train until OUT holds N such models; existing ones are kept.",
    )
    build.argument("out", "OUT", "Zoo folder, made if missing")
    options.data(build, required=True)
    build.option("--arch", "Architecture, such as resnet10, vgg11-bn or wide-resnet", default="conv4")
    build.option(
        "--models",
        "Number of models of this domain, architecture and seed, existing ones included; needed without --classes-file",
        positive,
        metavar="N",
    )
    build.option("--ways", "Classes per model (default: 5)", positive)
    build.option(
        "--classes-file",
        "File with the classes of every model instead of draws, one model a line: class names separated by commas, in "
        'double quotes where a name has one (cat,"dog, wild")',
        path,
        metavar="FILE",
    )
    options.seed(build)
    build.option("--domain", "Domain of the images (default: the name of the data)")
    build.option("--epochs", "Passes over the images", positive, 60)
    build.option("--batch-size", "Images per step", positive, 128)
    build.option("--learning-rate", "Learning rate of the first epochs (default: 0.01)", number)
    build.option(
        "--shift",
        "Largest shift of the random shifts and mirror images of augmentation (default: no augmentation)",
        natural,
        metavar="PIXELS",
    )
    build.option("--width", "Width of the architecture (default: its own)", positive)
    build.option(
        "--input-size",
        "Side of the input in pixels (default: side of a pack; 84 for mini-imagenet and cub; else 32)",
        positive,
    )
    _channels(build, 3)
    build.option(
        "--control",
        "Control zoo, recorded in the contracts. untrained: random weights; shuffled-labels: training on labels "
        "permuted among the images",
        choices=choices.CONTROLS,
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
        "Add a model from timm, torchvision, the Hugging Face Hub or a file. Values that its source lacks are given "
        "here, or in a .yaml file of the same name beside the weights.",
        f"Example of a file pets.yaml beside pets.safetensors: {choices.MODEL_EXAMPLE}",
    )
    add.argument("zoo", "ZOO", "Zoo folder, made if missing")
    add.argument(
        "source",
        "SOURCE",
        "Source: timm:NAME[.TAG], torchvision:NAME[.WEIGHTS], hf:OWNER/NAME[@REVISION] (of timm or transformers), a "
        "weights file (.safetensors, or of torch.save), an .onnx file, or a folder of save_pretrained (of timm or "
        "transformers)",
        nargs="?",
    )
    add.option(
        "--from-folder",
        "Folder of weights to add, each with a .yaml file that describes it, and of folders of save_pretrained",
        path,
        metavar="DIR",
    )
    add.option("--weights", "File with the weights of a model of timm or torchvision", path, metavar="FILE")
    add.option("--state-dict", "Key of the weights in a file with several, such as model_ema", metavar="KEY")
    add.switch("--pretrained", "Download the published weights of a model of timm or torchvision")
    add.option("--name", "Name of the model in the zoo (default: from SOURCE)")
    add.option(
        "--arch",
        "Architecture of the weights in a file, such as timm:convnext_atto or vgg16-bn (default: the only one of "
        "docs/models.md that fits)",
    )
    add.option(
        "--arguments", "Arguments of the architecture, such as depth=28,width=10", arguments, metavar="NAME=VALUE,..."
    )
    add.switch("--by-order", "Take tensors whose names do not fit in the order of a .pt, .pth, .th or .bin file")
    add.switch("--dry-run", "Show which tensor of the file becomes which of the network, and write nothing")
    add.option(
        "--classes",
        "Class names in the order of the outputs: a list such as cat,dog; a file with one per line; imagenet-1k",
        metavar="FILE_OR_LIST",
    )
    add.option("--input-size", "Side of the square input in pixels (default: that of an ONNX file)", positive)
    _channels(add)
    add.option(
        "--mean",
        "Channel means of images in [0, 1], such as 0.485,0.456,0.406; or one value",
        decimals,
    )
    add.option(
        "--std",
        "Channel standard deviations of images in [0, 1], such as 0.229,0.224,0.225; or one value",
        decimals,
    )
    add.option("--domain", "Domain of the images, such as the name of the data set")
    add.option("--licence", "Licence of the weights")
    options.recovered_images(add)
