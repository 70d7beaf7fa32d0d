"""Task Groupings Regularization: data-free meta-learning with heterogeneous pre-trained models.

Wei, Hu, Shen, Wang, Li, Yuan and Tao, ICML 2024 (arXiv:2405.16560). Recover images from every model by inversion, embed
the models in a task space by Fisher information, group *dissimilar* models, and inside each group regularise the
meta-gradient so that conflicting tasks agree.

The setting `default` departs from the published recipe where that is wasteful or does not carry (the mathematics of
the steps is in the rooms that do them):

- every model is recovered once, in pixels, into a bank (published: again and again, through a generator);
- the probe is trained on the bank (published: an ImageNet network), and groups are `dispersed` (published: spectral);
- a member's loss asks for what the whole zoo says of the member's images: all teachers' features (the *joint
  features*), their cosines between images, and their class probabilities. That carries over to unseen classes
  (published: the member's own class probabilities, then MAML on recovered episodes, which carries little over at
  budgets of minutes);
- the displacement of implicit gradient regularisation is detached, so the published 1e-3 corresponds to 2e-3 here.
"""

from collections.abc import Mapping
from typing import ClassVar, final

from pydantic import BaseModel, ConfigDict

from metazoo.learn.recipe import LearningRecipe
from metazoo.methods.base import Method
from metazoo.methods.recipes import GroupingRecipe, MetaModelRecipe
from metazoo.methods.stages import embed_and_group, learn_from_groups, recover_images
from metazoo.methods.workspace import Workspace
from metazoo.models import ImageClassifier
from metazoo.recover import RecoveryBudget, RecoveryRecipe
from metazoo.taskspace import ProbeRecipe


class TgrRecipe(BaseModel):
    """All options of a run by TGR."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recovery: RecoveryRecipe = RecoveryRecipe()
    budget: RecoveryBudget = RecoveryBudget()
    probe: ProbeRecipe = ProbeRecipe()
    grouping: GroupingRecipe = GroupingRecipe()
    learning: LearningRecipe = LearningRecipe()
    meta_model: MetaModelRecipe = MetaModelRecipe()


@final
class TaskGroupingsRegularization(Method):
    """The method as users name it."""

    name = "tgr"
    title = "Task Groupings Regularization"
    reference = "Wei et al., Task Groupings Regularization, ICML 2024"
    recipe_type = TgrRecipe
    settings: ClassVar[Mapping[str, BaseModel]] = {"default": TgrRecipe()}

    def train(self, workspace: Workspace, recipe: TgrRecipe) -> ImageClassifier:  # noqa: D102
        bank = recover_images(workspace, recipe.recovery, recipe.budget)
        grouping = embed_and_group(workspace, bank, recipe.probe, recipe.grouping)
        return learn_from_groups(workspace, bank, grouping, recipe.learning, recipe.meta_model)
