"""Names that a configuration may build: classes of ours, and some of libraries."""

import sys

# Targets of our own package: all that these export, as `bnn_lightning.<package>.<Name>`. The configuration of a
# checkpoint says what is called with which arguments, and helpers elsewhere write files.
SUBPACKAGES = ("binarizers", "callbacks", "data", "distill", "loggers", "metrics", "models", "optim", "tasks")

# Classes, never prefixes: `torch.hub.load` runs what it downloads. One's own package is added by `trust=[...]`.
ALLOWED_CLASSES = {
    "torch.optim": (
        *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam"),
        *("RMSprop", "Rprop", "SGD"),
    ),
    "torch.optim.lr_scheduler": (
        *("ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LinearLR"),
        *("MultiStepLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "StepLR"),
    ),
    "torchvision.transforms.v2": (
        *("AugMix", "AutoAugment", "ColorJitter", "Compose", "GaussianBlur", "GaussianNoise", "RandAugment"),
        *("RandomAdjustSharpness", "RandomAffine", "RandomApply", "RandomAutocontrast", "RandomChoice", "RandomCrop"),
        *("RandomEqualize", "RandomErasing", "RandomGrayscale", "RandomHorizontalFlip", "RandomInvert", "RandomOrder"),
        *("RandomPerspective", "RandomPhotometricDistort", "RandomPosterize", "RandomRotation", "RandomSolarize"),
        *("RandomVerticalFlip", "TrivialAugmentWide"),
    ),
    "pytorch_lightning": ("Trainer",),
    "pytorch_lightning.callbacks": (
        *("DeviceStatsMonitor", "EMAWeightAveraging", "EarlyStopping", "LearningRateMonitor", "ModelCheckpoint"),
        *("ModelSummary", "RichModelSummary", "RichProgressBar", "TQDMProgressBar", "ThroughputMonitor", "Timer"),
    ),
    "pytorch_lightning.loggers": ("CSVLogger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"),
    "pytorch_lightning.profilers": ("AdvancedProfiler", "PyTorchProfiler", "SimpleProfiler"),
    "pytorch_lightning.strategies": ("DDPStrategy", "ModelParallelStrategy", "SingleDeviceStrategy"),
}
ALLOWED = frozenset(f"{module}.{name}" for module, names in ALLOWED_CLASSES.items() for name in names)
# Packages that everybody has, of which only named targets are trusted: `torch.hub.load`, beside them, runs what it
# loads.
_LIBRARIES = {"torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning", "lightning_fabric", "timm"}
_LIBRARIES |= sys.stdlib_module_names


def is_library(package: str) -> bool:
    """Whether a package is one that everybody has, and nobody's own: torch and its kin, or Python's."""
    return package in _LIBRARIES
