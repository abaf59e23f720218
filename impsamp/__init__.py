"""Importance sampling for stochastic gradient training: schemes, samplers, norms and proofs.

Names are resolved on first use, so `import impsamp` costs milliseconds and needs only torch and
numpy. What a referee needs besides (statistics, claims, figures) lies in `impsamp.reproduce`.
"""

from difflib import get_close_matches as _get_close_matches
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# package or module -> its public names, in the order of the layers
_PUBLIC = {
    "errors": (
        "ImpsampError InvalidProbabilities InvalidScores InvalidShape InvalidArgument UnknownName "
        "UnsupportedModel DataError ChecksumError RecordError Diverged MissingExtra"
    ),
    "theory": (
        "second_moment optimal_probabilities convergence_speed_sgd convergence_speed_momentum "
        "total_variation kl_divergence chi2_divergence is_between speed_gain "
        "rmsprop_step adam_step convergence_speed_rmsprop convergence_speed_adam "
        "frozen_optimal_probabilities optimal_probabilities_given_optimum "
        "minibatch_probabilities variance_factors alpha gammas table_updates StepSize step_size "
        "gradient_evaluations"
    ),
    "data": "Split load_mnist load_mnist01 load_libsvm",
    "problems": (
        "PaperCNN LinearSum LogisticRegression LeastSquares SigmoidLeastSquares FiniteSum"
    ),
    "gradnorms": (
        "grad_norms choose_method per_sample_grads evaluation_statistics loss_scores "
        "output_gradient_norms output_scores upper_bound_scores preconditioner_of LastLayerScores "
        "SequenceLoss token_losses token_scores sequence_scores"
    ),
    "schemes": (
        "Scheme Uniform Shuffle GradNorm UpperBound Loss LossRank Prioritized Lipschitz Stale "
        "PreconditionedGradNorm Mixture Tempered Floored SwitchOn GroupMixture ReducibleLoss LaBER "
        "MultipleImportance DynamicPruning proportional mix temper floor_probabilities"
    ),
    "samplers": (
        "Draw importance_weights inverse_cdf InverseCDF AliasTable SumTree choose_sampler "
        "NiceSampling IndependentSampling ApproximateIndependentSampling SystematicSampling "
        "SerialSampling ImportanceBatchSampler WithDraw DistributedImportanceBatchSampler "
        "importance_loader ImportanceLoader Trust "
        "DistributedGradNorm ShardedImportanceBatchSampler ShardedSumTree ShardedStale "
        "outcomes expected_coefficients enumerated_pairs downsample Windows"
    ),
    "thinning": "thin Thinning VarianceBound skip_zero_rows",
    "optimizers": (
        "ScalarRMSprop ScalarAdam SVRG SAGA SARAH LearningRateFactor learning_rate_factor"
    ),
    "linear": (
        "minimize Result Interrupted make_plan convex_sarah_step convex_sarah_factor "
        "expected_smoothness restart RestartResult VRClassifier VRRegressor"
    ),
    "training": "train History",
    "assess": (
        "Assessment AssessCallback Probe certify probe "
        "MEASURES measure distances best_pool pool_variance_ratio"
    ),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(_import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _PUBLIC:
        return _import_module(f"{__name__}.{name}")
    near = _get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; public names: {', '.join(__all__)}"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({"__version__", *_PUBLIC, *__all__})


if TYPE_CHECKING:  # what editors and type checkers see; written by `make export`
    from impsamp.assess import MEASURES as MEASURES
    from impsamp.assess import AssessCallback as AssessCallback
    from impsamp.assess import Assessment as Assessment
    from impsamp.assess import Probe as Probe
    from impsamp.assess import best_pool as best_pool
    from impsamp.assess import certify as certify
    from impsamp.assess import distances as distances
    from impsamp.assess import measure as measure
    from impsamp.assess import pool_variance_ratio as pool_variance_ratio
    from impsamp.assess import probe as probe
    from impsamp.data import Split as Split
    from impsamp.data import load_libsvm as load_libsvm
    from impsamp.data import load_mnist as load_mnist
    from impsamp.data import load_mnist01 as load_mnist01
    from impsamp.errors import ChecksumError as ChecksumError
    from impsamp.errors import DataError as DataError
    from impsamp.errors import Diverged as Diverged
    from impsamp.errors import ImpsampError as ImpsampError
    from impsamp.errors import InvalidArgument as InvalidArgument
    from impsamp.errors import InvalidProbabilities as InvalidProbabilities
    from impsamp.errors import InvalidScores as InvalidScores
    from impsamp.errors import InvalidShape as InvalidShape
    from impsamp.errors import MissingExtra as MissingExtra
    from impsamp.errors import RecordError as RecordError
    from impsamp.errors import UnknownName as UnknownName
    from impsamp.errors import UnsupportedModel as UnsupportedModel
    from impsamp.gradnorms import LastLayerScores as LastLayerScores
    from impsamp.gradnorms import SequenceLoss as SequenceLoss
    from impsamp.gradnorms import choose_method as choose_method
    from impsamp.gradnorms import evaluation_statistics as evaluation_statistics
    from impsamp.gradnorms import grad_norms as grad_norms
    from impsamp.gradnorms import loss_scores as loss_scores
    from impsamp.gradnorms import output_gradient_norms as output_gradient_norms
    from impsamp.gradnorms import output_scores as output_scores
    from impsamp.gradnorms import per_sample_grads as per_sample_grads
    from impsamp.gradnorms import preconditioner_of as preconditioner_of
    from impsamp.gradnorms import sequence_scores as sequence_scores
    from impsamp.gradnorms import token_losses as token_losses
    from impsamp.gradnorms import token_scores as token_scores
    from impsamp.gradnorms import upper_bound_scores as upper_bound_scores
    from impsamp.linear import Interrupted as Interrupted
    from impsamp.linear import RestartResult as RestartResult
    from impsamp.linear import Result as Result
    from impsamp.linear import VRClassifier as VRClassifier
    from impsamp.linear import VRRegressor as VRRegressor
    from impsamp.linear import convex_sarah_factor as convex_sarah_factor
    from impsamp.linear import convex_sarah_step as convex_sarah_step
    from impsamp.linear import expected_smoothness as expected_smoothness
    from impsamp.linear import make_plan as make_plan
    from impsamp.linear import minimize as minimize
    from impsamp.linear import restart as restart
    from impsamp.optimizers import SAGA as SAGA
    from impsamp.optimizers import SARAH as SARAH
    from impsamp.optimizers import SVRG as SVRG
    from impsamp.optimizers import LearningRateFactor as LearningRateFactor
    from impsamp.optimizers import ScalarAdam as ScalarAdam
    from impsamp.optimizers import ScalarRMSprop as ScalarRMSprop
    from impsamp.optimizers import learning_rate_factor as learning_rate_factor
    from impsamp.problems import FiniteSum as FiniteSum
    from impsamp.problems import LeastSquares as LeastSquares
    from impsamp.problems import LinearSum as LinearSum
    from impsamp.problems import LogisticRegression as LogisticRegression
    from impsamp.problems import PaperCNN as PaperCNN
    from impsamp.problems import SigmoidLeastSquares as SigmoidLeastSquares
    from impsamp.samplers import AliasTable as AliasTable
    from impsamp.samplers import ApproximateIndependentSampling as ApproximateIndependentSampling
    from impsamp.samplers import DistributedGradNorm as DistributedGradNorm
    from impsamp.samplers import (
        DistributedImportanceBatchSampler as DistributedImportanceBatchSampler,
    )
    from impsamp.samplers import Draw as Draw
    from impsamp.samplers import ImportanceBatchSampler as ImportanceBatchSampler
    from impsamp.samplers import ImportanceLoader as ImportanceLoader
    from impsamp.samplers import IndependentSampling as IndependentSampling
    from impsamp.samplers import InverseCDF as InverseCDF
    from impsamp.samplers import NiceSampling as NiceSampling
    from impsamp.samplers import SerialSampling as SerialSampling
    from impsamp.samplers import ShardedImportanceBatchSampler as ShardedImportanceBatchSampler
    from impsamp.samplers import ShardedStale as ShardedStale
    from impsamp.samplers import ShardedSumTree as ShardedSumTree
    from impsamp.samplers import SumTree as SumTree
    from impsamp.samplers import SystematicSampling as SystematicSampling
    from impsamp.samplers import Trust as Trust
    from impsamp.samplers import Windows as Windows
    from impsamp.samplers import WithDraw as WithDraw
    from impsamp.samplers import choose_sampler as choose_sampler
    from impsamp.samplers import downsample as downsample
    from impsamp.samplers import enumerated_pairs as enumerated_pairs
    from impsamp.samplers import expected_coefficients as expected_coefficients
    from impsamp.samplers import importance_loader as importance_loader
    from impsamp.samplers import importance_weights as importance_weights
    from impsamp.samplers import inverse_cdf as inverse_cdf
    from impsamp.samplers import outcomes as outcomes
    from impsamp.schemes import DynamicPruning as DynamicPruning
    from impsamp.schemes import Floored as Floored
    from impsamp.schemes import GradNorm as GradNorm
    from impsamp.schemes import GroupMixture as GroupMixture
    from impsamp.schemes import LaBER as LaBER
    from impsamp.schemes import Lipschitz as Lipschitz
    from impsamp.schemes import Loss as Loss
    from impsamp.schemes import LossRank as LossRank
    from impsamp.schemes import Mixture as Mixture
    from impsamp.schemes import MultipleImportance as MultipleImportance
    from impsamp.schemes import PreconditionedGradNorm as PreconditionedGradNorm
    from impsamp.schemes import Prioritized as Prioritized
    from impsamp.schemes import ReducibleLoss as ReducibleLoss
    from impsamp.schemes import Scheme as Scheme
    from impsamp.schemes import Shuffle as Shuffle
    from impsamp.schemes import Stale as Stale
    from impsamp.schemes import SwitchOn as SwitchOn
    from impsamp.schemes import Tempered as Tempered
    from impsamp.schemes import Uniform as Uniform
    from impsamp.schemes import UpperBound as UpperBound
    from impsamp.schemes import floor_probabilities as floor_probabilities
    from impsamp.schemes import mix as mix
    from impsamp.schemes import proportional as proportional
    from impsamp.schemes import temper as temper
    from impsamp.theory import StepSize as StepSize
    from impsamp.theory import adam_step as adam_step
    from impsamp.theory import alpha as alpha
    from impsamp.theory import chi2_divergence as chi2_divergence
    from impsamp.theory import convergence_speed_adam as convergence_speed_adam
    from impsamp.theory import convergence_speed_momentum as convergence_speed_momentum
    from impsamp.theory import convergence_speed_rmsprop as convergence_speed_rmsprop
    from impsamp.theory import convergence_speed_sgd as convergence_speed_sgd
    from impsamp.theory import frozen_optimal_probabilities as frozen_optimal_probabilities
    from impsamp.theory import gammas as gammas
    from impsamp.theory import gradient_evaluations as gradient_evaluations
    from impsamp.theory import is_between as is_between
    from impsamp.theory import kl_divergence as kl_divergence
    from impsamp.theory import minibatch_probabilities as minibatch_probabilities
    from impsamp.theory import optimal_probabilities as optimal_probabilities
    from impsamp.theory import (
        optimal_probabilities_given_optimum as optimal_probabilities_given_optimum,
    )
    from impsamp.theory import rmsprop_step as rmsprop_step
    from impsamp.theory import second_moment as second_moment
    from impsamp.theory import speed_gain as speed_gain
    from impsamp.theory import step_size as step_size
    from impsamp.theory import table_updates as table_updates
    from impsamp.theory import total_variation as total_variation
    from impsamp.theory import variance_factors as variance_factors
    from impsamp.thinning import Thinning as Thinning
    from impsamp.thinning import VarianceBound as VarianceBound
    from impsamp.thinning import skip_zero_rows as skip_zero_rows
    from impsamp.thinning import thin as thin
    from impsamp.training import History as History
    from impsamp.training import train as train
