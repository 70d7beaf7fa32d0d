"""Registry of methods by name."""

from metazoo.methods.average_weights import Average
from metazoo.methods.base import Method
from metazoo.methods.best_model import BestModel
from metazoo.methods.dro import Dro
from metazoo.methods.free import Free
from metazoo.methods.frozen_backbone import FrozenBackbone
from metazoo.methods.ot_fusion import OptimalTransportFusion
from metazoo.methods.purer import Purer
from metazoo.methods.random_initialisation import RandomInitialisation
from metazoo.methods.tdr import TaskDistributionallyRobust
from metazoo.methods.tgr import TaskGroupingsRegularization
from metazoo.methods.zoo_distillation import ZooDistillation
from metazoo.methods.zoo_ensemble import ZooEnsemble
from metazoo.plugins import Registry

_BUILT_IN = (
    TaskGroupingsRegularization(),
    Free(),
    Purer(),
    TaskDistributionallyRobust(),
    ZooDistillation(),
    ZooEnsemble(),
    BestModel(),
    FrozenBackbone(),
    Average(),
    OptimalTransportFusion(),
    Dro(),
    RandomInitialisation(),
)
METHODS: Registry[Method] = Registry(
    "method",
    "metazoo.methods",
    values={method.name: method for method in _BUILT_IN},
    base=Method,
)
get_method = METHODS.get
register_method = METHODS.register_named
"""Register a `Method`, given as an object or a class, under its attribute `name`; also a class decorator."""
