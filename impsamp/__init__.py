"""Importance sampling for stochastic gradient training: schemes, samplers, estimators, norms and proofs.

Names are resolved on first use, so `import impsamp` costs nothing and needs nothing beyond torch and numpy.
"""
from importlib import import_module

__version__ = "0.1.0"

# module -> public names, in the order of the layers; one line per room
_ROOMS = {
    "errors": ("ImpsampError", "InvalidProbabilities", "InvalidScores", "InvalidShape", "InvalidArgument", "UnknownName", "UnsupportedModel",
               "DataError", "ChecksumError", "RecordError", "Diverged"),
    "convergence": ("second_moment", "optimal_probabilities", "convergence_speed_sgd", "convergence_speed_momentum"),
    "divergences": ("total_variation", "kl_divergence", "chi2_divergence", "is_between", "speed_gain"),
    "adaptive_convergence": ("rmsprop_step", "adam_step", "convergence_speed_rmsprop", "convergence_speed_adam",
                             "frozen_optimal_probabilities", "optimal_probabilities_given_optimum"),
    "minibatch_theory": ("minibatch_probabilities", "variance_factors", "alpha", "gammas", "table_updates", "StepSize", "step_size",
                         "gradient_evaluations"),
    "data": ("Split", "load_mnist", "load_mnist01", "load_libsvm"),
    "problems": ("PaperCNN", "LinearSum", "LogisticRegression", "LeastSquares", "SigmoidLeastSquares", "FiniteSum"),
    "gradnorms": ("grad_norms", "choose_method", "per_sample_grads", "evaluation_statistics", "loss_scores", "output_gradient_norms",
                  "upper_bound_scores", "preconditioner_of"),
    "schemes": ("Scheme", "Uniform", "Shuffle", "GradNorm", "UpperBound", "Loss", "LossRank", "Prioritized", "Lipschitz", "Stale",
                "PreconditionedGradNorm", "Mixture", "Tempered", "Floored", "SwitchOn", "proportional", "mix", "temper", "floor_probabilities"),
    "samplers": ("Draw", "importance_weights", "inverse_cdf", "InverseCDF", "AliasTable", "SumTree", "NiceSampling", "IndependentSampling",
                 "ApproximateIndependentSampling", "SystematicSampling", "SerialSampling", "ImportanceBatchSampler", "WithDraw",
                 "DistributedImportanceBatchSampler", "DistributedGradNorm", "ShardedImportanceBatchSampler", "ShardedSumTree", "choose_sampler",
                 "thin", "Thinning", "VarianceBound", "skip_zero_rows"),
    "enumeration": ("outcomes", "expected_coefficients", "enumerated_pairs"),
    "optimizers": ("ScalarRMSprop", "ScalarAdam", "SVRG", "SAGA", "SARAH"),
    "linear": ("minimize", "Result", "make_plan", "convex_sarah_step", "convex_sarah_factor", "expected_smoothness", "restart", "RestartResult"),
    "estimators": ("VRClassifier", "VRRegressor"),
    "training": ("train", "History"),
    "measures": ("MEASURES", "measure", "distances", "best_pool", "pool_variance_ratio"),
    "assess": ("Assessment", "AssessCallback", "Probe", "certify", "probe"),
    "statistics": ("sign_flip_test", "bootstrap_interval", "equivalence_test", "holm", "mcnemar_exact"),
    "verdicts": ("run_statistics", "Comparison", "verdict"),
    "claims": ("read_claims", "judge", "judge_statistics", "claims_page", "timing_table"),
}
_HOME = {name: module for module, names in _ROOMS.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__():
    return sorted([*globals(), *__all__])
