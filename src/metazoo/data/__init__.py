"""Images with labels, splits by class and by image, and few-shot episodes."""

from metazoo.data.episodes import Episode, EpisodeList
from metazoo.data.image_files import decoded_images, decoded_or_errors, image_files, load_image_files
from metazoo.data.images import ImageSet
from metazoo.data.load import absolute_image_source, has_own_side, load_images, load_images_at
from metazoo.data.splits import assert_disjoint, split_images
from metazoo.data.unlabelled import UnlabelledImages

__all__ = [
    "Episode",
    "EpisodeList",
    "ImageSet",
    "UnlabelledImages",
    "absolute_image_source",
    "assert_disjoint",
    "decoded_images",
    "decoded_or_errors",
    "has_own_side",
    "image_files",
    "load_image_files",
    "load_images",
    "load_images_at",
    "split_images",
]
