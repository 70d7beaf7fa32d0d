"""Fixed choices of options and their descriptions, shared by the command line and the library.

The module imports nothing heavy, so that `metazoo --help` is fast.
"""

from typing import Literal, get_args

Permission = Literal["show", "keep", "discard"]
"""Use of images recovered from a model: keep and show, keep without showing, or delete when the run has finished."""
PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
BatchNormMode = Literal["running", "support", "query"]
BATCH_NORM_MODES: tuple[BatchNormMode, ...] = get_args(BatchNormMode)
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
ExecutorName = Literal["local", "ray"]
EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)
ExportedOutputs = Literal["probabilities", "features"]
EXPORTED_OUTPUTS: tuple[ExportedOutputs, ...] = get_args(ExportedOutputs)
ExportedPrecision = Literal["float32", "float16", "int8"]
EXPORTED_PRECISIONS: tuple[ExportedPrecision, ...] = get_args(ExportedPrecision)
Control = Literal["untrained", "shuffled-labels"]
CONTROLS: tuple[Control, ...] = get_args(Control)

NEAREST_MEAN, NEAREST_MEAN_EUCLIDEAN = "nearest-mean", "nearest-mean-euclidean"
RIDGE, LOGISTIC = "ridge", "logistic"
SOFT_K_MEANS_BALANCED, SOFT_K_MEANS_FREE = "soft-k-means-balanced", "soft-k-means-free"
FINE_TUNE, FINE_TUNE_OWN = "fine-tune", "fine-tune-own"
HEADS = {
    NEAREST_MEAN: "class means of the features, compared by cosine",
    NEAREST_MEAN_EUCLIDEAN: "class means of the features, compared by distance",
    RIDGE: "ridge regression on the features",
    LOGISTIC: "logistic regression on the features",
    SOFT_K_MEANS_BALANCED: "class means refined by the queries, with equally many queries per class",
    SOFT_K_MEANS_FREE: "class means refined by the queries, with any number of queries per class",
    FINE_TUNE: "a few training steps of the whole network",
    FINE_TUNE_OWN: "a few training steps of the whole network, from its stored head",
}
AUTO_HEAD = "auto"
"""Choice of head and batch-norm mode by held-out support images."""
FALSE_REJECTION = 0.05
"""Share of the images of known classes that may be rejected as unknown."""
DEFAULT_HEAD = LOGISTIC
"""Most accurate head without changes of the model and without transduction (docs/studies/heads.md)."""

DATA = (
    "an .npz pack, a folder with one folder per class, glyphs, glyphs:SCRIPT,SCRIPT, or a part (train, val, test) of "
    "cifar-fs, mini-imagenet or cub in the folder ROOT, such as cifar-fs/train:ROOT"
)
MODEL_EXAMPLE = (
    "{architecture: timm:convnext_atto, classes: [cat, dog], input_size: 32, mean: [0.485, 0.456, 0.406], "
    "std: [0.229, 0.224, 0.225], domain: pets}"
)
"""Example of a description of a model, in a file beside its weights."""
