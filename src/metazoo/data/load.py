"""Any source of images by the name a user types."""

from pathlib import Path

from metazoo.choices import DATA
from metazoo.data.glyphs.glyphs import load_glyphs
from metazoo.data.image_files import load_folder
from metazoo.data.images import ImageSet
from metazoo.data.npz import load_npz
from metazoo.data.published import find_published, load_published
from metazoo.errors import UsageError
from metazoo.text import local_path

DEFAULT_SIDE = 32
_SMALLEST_SIDE, _LARGEST_SIDE = 8, 1024


def load_images(source: str | Path, *, side: int | None = None, seed: int = 0, images_per_class: int = 100) -> ImageSet:
    """Load an `.npz` pack, an image folder, the embedded glyphs or one part of a published data set.

    Args:
        source: a path; or `glyphs` (every script), `glyphs:latin,greek` (some scripts); or `cifar-fs/train:ROOT` and
            the like, see `load_published`. A folder of one's own of such a name is meant by a `Path` or by `./glyphs`.
        side: height and width of the images in pixels; if None, a pack keeps its own, miniImageNet and CUB are read at
            84 and everything else at 32.
        seed: seed of the glyphs' rendering; other sources ignore it.
        images_per_class: how many images of each glyph are rendered; other sources give all they have.

    Raises:
        UsageError: there is no such source or script, or `side` or `images_per_class` is out of range.
        DataError: the content of the source cannot be used; the file is named.
    """
    if side is not None and not _SMALLEST_SIDE <= side <= _LARGEST_SIDE:
        raise UsageError(f"image side must lie between {_SMALLEST_SIDE} and {_LARGEST_SIDE} pixels, not {side}")
    if isinstance(source, str) and (source == "glyphs" or source.startswith("glyphs:")):
        chosen = None if source == "glyphs" else [name.strip() for name in source.split(":", 1)[1].split(",")]
        return load_glyphs(chosen, images_per_class=images_per_class, side=side or DEFAULT_SIDE, seed=seed)
    if isinstance(source, str) and find_published(source) is not None:
        return load_published(source, side)
    path = Path(local_path(str(source))).expanduser()
    if path.is_dir():
        return load_folder(path, side or DEFAULT_SIDE)
    if path.is_file() and path.suffix.lower() == ".npz":
        pack = load_npz(path)
        return pack if side is None else pack.resized(side)
    raise UsageError(path, "neither an .npz pack nor a folder" if path.exists() else "does not exist", f"give {DATA}")


def has_own_side(source: str) -> bool:
    """Whether images of `source` have one size of their own, so that they are best read at that."""
    published = find_published(source)
    return published.has_one_side if published is not None else source.lower().endswith(".npz")
