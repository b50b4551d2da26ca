"""Lightning callbacks: one hook, one job."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "bn_reestimate": ["BNReestimate"],
        "checkpoint": ["BestCheckpoint", "FinalCheckpoint", "LastCheckpoint"],
        "checkpoint_io": ["AtomicCheckpointIO", "CheckpointReadError", "CheckpointWriteError"],
        "clip": ["BiasClip", "LatentClip", "ChannelBlendClip"],
        "damaged": ["DamagedImages"],
        "early_stopping": ["EarlyStopping"],
        "ema": ["EMAWeightAveraging"],
        "embed_config": ["EmbedConfig"],
        "flip_rate": ["FlipRateLogger"],
        "frozen": ["FrozenNorms"],
        "gradient_share": ["GradientShare"],
        "interrupt": ["StopRequest"],
        "nonfinite": ["NonFiniteLoss", "NonFiniteLossError"],
        "rng_state": ["RNGState"],
        "summary": ["NetworkSummary"],
        "tracking": ["Tracking"],
    },
)
