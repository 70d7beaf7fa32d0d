"""What can be typed after `metazoo zoo add`. Nothing heavy is imported here."""

import argparse
from typing import Any

from metazoo.cli.values import decimals, positive

# As in `metazoo.zoo`, which brings in torch; a test compares them.
PERMISSIONS = ("show", "keep", "discard")
EXAMPLE = (
    "{architecture: timm:convnext_atto, classes: [cat, dog], input_size: 32, mean: [0.485, 0.456, 0.406], "
    "std: [0.229, 0.224, 0.225], domain: pets}"
)


def add_recovered_images(command: argparse.ArgumentParser, **settings: Any) -> None:
    """The option for what may be done with recovered images."""
    command.add_argument(
        "--recovered-images",
        choices=PERMISSIONS,
        help="show: a run may keep and show them; keep: it may keep them, but show them nowhere; discard: it deletes "
        "them once it has finished (default: show)",
        **settings,
    )


def adding(commands: Any) -> None:
    """The command itself."""
    add = commands.add_parser(
        "add",
        help="add a model that was trained elsewhere, or a folder of them",
        description="Add a model of timm, torchvision, the Hugging Face Hub or a file. What its source does not say "
        "must be said here, or in a .yaml file of the same name beside the weights.",
        epilog=f"A file pets.yaml beside pets.safetensors may hold: {EXAMPLE}",
    )
    add.add_argument("zoo", metavar="ZOO", help="zoo folder, made if missing")
    add.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="timm:NAME[.TAG], torchvision:NAME[.WEIGHTS], hf:OWNER/NAME[@REVISION] (of timm or transformers), or a "
        ".safetensors, .pt, .pth or .bin file",
    )
    add.add_argument("--from-folder", metavar="DIR", help="add all weights of a folder, each described by a .yaml file")
    add.add_argument("--weights", metavar="FILE", help="with the weights of a model of timm or torchvision")
    add.add_argument("--pretrained", action="store_true", help="fetch the published weights of such a model instead")
    add.add_argument("--name", help="of the model in the zoo (default: from SOURCE)")
    add.add_argument("--arch", help="of the weights in a file, such as timm:convnext_atto or resnet18")
    add.add_argument(
        "--classes",
        metavar="FILE_OR_LIST",
        help="what its outputs stand for, in their order: cat,dog or a file with one a line, or imagenet-1k",
    )
    add.add_argument("--input-size", type=positive, help="side of its square input in pixels")
    add.add_argument("--channels", type=int, choices=(1, 3), help="of its input (default: 3)")
    add.add_argument("--mean", type=decimals, help="of each channel of images in [0, 1], such as 0.485,0.456,0.406")
    add.add_argument("--std", type=decimals, help="likewise, such as 0.229,0.224,0.225; one number is for all channels")
    add.add_argument("--domain", help="kind of images")
    add.add_argument("--licence", help="of the weights")
    add_recovered_images(add)
    add.set_defaults(command="zoo:add")
