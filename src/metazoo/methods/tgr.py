"""Task Groupings Regularization: data-free meta-learning with heterogeneous pre-trained models.

Wei, Hu, Shen, Wang, Li, Yuan and Tao, ICML 2024 (arXiv:2405.16560). Recover images from every model by inversion, embed
the models in a task space by Fisher information, group *dissimilar* models, and inside each group regularise the
meta-gradient so that conflicting tasks agree.

The setting `default` departs from the published recipe where that is wasteful or does not carry (the mathematics of
the steps is in the rooms that do them):

- every model is recovered once, in pixels, into a bank (published: again and again, through a generator), with another
  model of its domain as a guide where there is one (published: alone); see `metazoo.recover.guides`;
- the probe is trained on the bank (published: an ImageNet network), and groups are `dispersed` (published: spectral);
- a member's loss asks for what the whole zoo says of the member's images: all teachers' features (the *joint
  features*), their cosines between images, and their class probabilities. That carries over to unseen classes
  (published: the member's own class probabilities, then MAML on recovered episodes, which carries little over at
  budgets of minutes);
- of a zoo of several kinds of images the meta-model goes on to learn from each alone, and a new task takes the features
  of the specialists whose kind it looks like (published: one network for all); see `metazoo.learn.recogniser`;
- the meta-model is twice as wide as published, with 64 channels;
- the displacement of implicit gradient regularisation is detached, so the published 1e-3 corresponds to 2e-3 here, and
  one step in five is regularised, five times as strongly.

Which teachers a step learns from can be learned too, on a small labelled validation set; see `selection`.

The setting `thorough` is `default` with twice the recovered images and twice the steps, in about twice the time.

The setting `reference` is the published recipe, quirks included; see `tgr_reference`.
"""

from collections.abc import Mapping
from typing import ClassVar, final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from metazoo.bank import ResidentBanks
from metazoo.learn.embedders import MultiDomainClassifier
from metazoo.learn.recipe import LearningRecipe, RegularisationRecipe
from metazoo.methods.base import Method
from metazoo.methods.domains import DomainRecipe, find_kinds, specialised
from metazoo.methods.recipes import GroupingRecipe, MetaModelRecipe, SourceRecipe
from metazoo.methods.selection import SelectionRecipe, Validation, load_validation
from metazoo.methods.sources import images_from
from metazoo.methods.specialists import with_specialists
from metazoo.methods.stages import check_probe, embed_and_group, learn_from_groups
from metazoo.methods.tgr_reference import TgrReferenceRecipe, check_recipe, train_as_published
from metazoo.methods.trust import TrustRecipe, apply_trust
from metazoo.methods.workspace import Workspace
from metazoo.models import ImageClassifier, network_without_weights
from metazoo.recover import RecoveryBudget, RecoveryRecipe
from metazoo.run.progress import message
from metazoo.taskspace import ImageNetProbe, ProbeRecipe
from metazoo.zoo import Zoo


class TgrRecipe(BaseModel):
    """All options of a run by TGR."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: SourceRecipe = SourceRecipe()
    recovery: RecoveryRecipe = Field(default=RecoveryRecipe(), description="not used with another source")
    budget: RecoveryBudget = RecoveryBudget()
    trust: TrustRecipe = Field(default=TrustRecipe(), description="of images without classes nothing is judged")
    domains: DomainRecipe = Field(default=DomainRecipe(), description="of images without classes all are one kind")
    selection: SelectionRecipe = Field(default=SelectionRecipe(), description="off as long as it has no validation set")
    probe: ProbeRecipe = ProbeRecipe()
    grouping: GroupingRecipe = GroupingRecipe()
    learning: LearningRecipe = LearningRecipe()
    meta_model: MetaModelRecipe = MetaModelRecipe()

    @model_validator(mode="after")
    def _check(self) -> "TgrRecipe":
        if self.trust.mode != "keep" and not self.source.shows_classes:
            raise ValueError(f"trust.mode {self.trust.mode} needs recovered images, not source.kind {self.source.kind}")
        return self


_DEFAULT = TgrRecipe(
    recovery=RecoveryRecipe(guide_all=True),
    domains=DomainRecipe(specialise=0.7, learning_rate=1.0),
    learning=LearningRecipe(regularisation=RegularisationRecipe(every=5)),
    meta_model=MetaModelRecipe(width="default"),
)


@final
class TaskGroupingsRegularization(Method):
    """The method as users name it."""

    name = "tgr"
    title = "Task Groupings Regularization"
    reference = "Wei et al., Task Groupings Regularization, ICML 2024"
    settings: ClassVar[Mapping[str, BaseModel]] = {
        "default": _DEFAULT,
        "thorough": _DEFAULT.model_copy(
            update={
                "budget": RecoveryBudget(images_per_class=120),
                "learning": _DEFAULT.learning.model_copy(update={"steps": 6000}),
            }
        ),
        "reference": TgrReferenceRecipe(),
    }

    def check(self, zoo: Zoo, recipe: TgrRecipe | TgrReferenceRecipe, seed: int) -> None:  # noqa: D102
        spec = recipe.meta_model.spec(zoo)
        network_without_weights(spec)
        if not recipe.probe.trained:
            ImageNetProbe.load(recipe.probe.weights)
        if isinstance(recipe, TgrReferenceRecipe):
            check_recipe(zoo, recipe)
        else:
            Validation.load(recipe.selection, spec.input_size, seed)

    def train(  # noqa: D102
        self, workspace: Workspace, recipe: TgrRecipe | TgrReferenceRecipe
    ) -> ImageClassifier | MultiDomainClassifier:
        if isinstance(recipe, TgrReferenceRecipe):
            return train_as_published(workspace, recipe)
        check_probe(workspace, recipe.probe)
        side = recipe.meta_model.spec(workspace.zoo).input_size
        validation = load_validation(workspace, recipe.selection, side)
        bank = images_from(recipe.source, workspace, recipe.recovery, recipe.budget)
        banks = ResidentBanks(bank, workspace.compute.device)
        weights, kinds = None, {}
        if recipe.source.shows_classes:
            workspace, weights = apply_trust(workspace, banks, recipe.trust, side)
            kinds = find_kinds(workspace, recipe.domains)
        more = specialised(recipe.learning, recipe.domains)
        if kinds:
            message(
                f"note: {len(kinds)} kinds of images, so {more.steps} steps of learning more for each: "
                f"{', '.join(kinds)}"
            )
        grouping = embed_and_group(workspace, banks, recipe.probe, recipe.grouping)
        classifier = learn_from_groups(
            workspace, banks, grouping, recipe.learning, recipe.meta_model, weights, validation
        )
        if not kinds:
            return classifier
        return with_specialists(workspace, banks, grouping, classifier, kinds, more, recipe.domains.images, weights)
