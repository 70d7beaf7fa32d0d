"""Loading of images from any source, by its name."""

from pathlib import Path

from metazoo.choices import DATA
from metazoo.data.glyphs.glyphs import load_glyphs
from metazoo.data.image_files import load_folder
from metazoo.data.images import ImageSet
from metazoo.data.npz import load_npz
from metazoo.data.published import find_published, is_published_part, load_published
from metazoo.errors import UsageError
from metazoo.text import absolute_path, expanded_path

DEFAULT_SIDE = 32
_SMALLEST_SIDE, _LARGEST_SIDE = 8, 1024


def load_images(source: str | Path, *, side: int | None = None, seed: int = 0, images_per_class: int = 100) -> ImageSet:
    """Load an `.npz` pack, an image folder, the embedded glyphs or one part of a published data set.

    Args:
        source: path; `glyphs` (all scripts) or `glyphs:latin,greek` (some scripts); or a published data set such as
            `cifar-fs/train:ROOT`, see `load_published`. Use a `Path` or `./glyphs` for a folder of such a name.
        side: height and width of the images in pixels; None for the side of a pack, 84 for miniImageNet and CUB, 32
            for other sources.
        seed: seed of the rendering of glyphs.
        images_per_class: number of images rendered of each glyph; ignored by other sources.

    Raises:
        UsageError: the source or script does not exist, or `side` or `images_per_class` is out of range.
        DataError: the content of the source cannot be used.
    """
    if side is not None and not _SMALLEST_SIDE <= side <= _LARGEST_SIDE:
        raise UsageError("image side", f"must be from {_SMALLEST_SIDE} to {_LARGEST_SIDE} pixels, not {side}")
    if isinstance(source, str) and (source == "glyphs" or source.startswith("glyphs:")):
        chosen = None if source == "glyphs" else [name.strip() for name in source.split(":", 1)[1].split(",")]
        return load_glyphs(chosen, images_per_class=images_per_class, side=side or DEFAULT_SIDE, seed=seed)
    if isinstance(source, str) and find_published(source) is not None:
        return load_published(source, side)
    path = expanded_path(str(source))
    if path.is_dir():
        return load_folder(path, side or DEFAULT_SIDE)
    if path.is_file() and path.suffix.lower() == ".npz":
        pack = load_npz(path)
        return pack if side is None else pack.resized(side)
    if not path.exists() and is_published_part(*path.parts[-2:]):
        name = "/".join(path.parts[-2:])
        raise UsageError(path, f"does not exist, and {name} lacks its folder", f"write {name}:ROOT")
    raise UsageError(path, "neither an .npz pack nor a folder" if path.exists() else "does not exist", f"give {DATA}")


def absolute_image_source(source: str, folder: Path) -> str:
    """Source that does not depend on the current folder: with an absolute path, or the name of embedded data as it is.

    Args:
        source: see `load_images`.
        folder: folder of relative paths.

    Raises:
        UsageError: see `expanded_path`.
    """
    if source == "glyphs" or source.startswith("glyphs:"):
        return source
    name, _, root = source.partition(":")
    is_published = find_published(source) is not None
    return f"{name}:{absolute_path(root, folder)}" if is_published else absolute_path(source, folder)


def load_images_at(source: str, side: int) -> ImageSet:
    """Images of `source` as by `load_images`, at `side` pixels unless all have one size of their own."""
    return load_images(source, side=None if has_own_side(source) else side)


def has_own_side(source: str) -> bool:
    """Whether all images of `source` have one size, which is then the best size to read them at."""
    published = find_published(source)
    return published.has_one_side if published is not None else source.lower().endswith(".npz")
